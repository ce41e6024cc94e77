// Package respond is the action that answers by itself: status, headers and body are fixed when the configuration is
// compiled, and each request gets the same prebuilt answer.
package respond

import (
	"maps"
	"mime"
	"net/http"
	"slices"
	"strings"

	"github.com/valyala/fasthttp"

	"sluice/config"
	"sluice/gateway/action"
	"sluice/gateway/exchange"
)

// Config of the action.
type Config struct {
	// Status of the answer.
	Status int `yaml:"status" default:"200" min:"200" max:"599"`
	// Body of the answer, sent as it is written here.
	Body string `yaml:"body"`
	// ContentType of the body; an answer without body has none.
	ContentType string `yaml:"content_type" default:"text/plain; charset=utf-8"`
	// Headers of the answer; a list of texts is a header for each. Those that frame a message or are hop-by-hop are refused.
	Headers map[string]config.StringList `yaml:"headers"`
}

// Validate reports every setting that would not make a valid answer (RFC 9110).
func (c *Config) Validate() error {
	var errs config.Errors
	fail := func(path, format string, a ...any) { errs = append(errs, config.Errorf(path, format, a...)) }
	switch c.Status {
	case fasthttp.StatusNoContent, fasthttp.StatusResetContent, fasthttp.StatusNotModified:
		if c.Body != "" {
			fail("body", "an answer with status %d has no body; leave it out", c.Status)
		}
	}
	if _, _, err := mime.ParseMediaType(c.ContentType); c.ContentType != "" && (err != nil || !isFieldValue(c.ContentType)) {
		fail("content_type", "%q is no content type; write it as application/json", c.ContentType)
	}
	seen := make(map[string]string)
	for _, name := range slices.Sorted(maps.Keys(c.Headers)) {
		at := "headers." + name
		if !isToken(name) {
			fail("headers", "%q can not be the name of a header", name)
			continue
		}
		switch exchange.KindOf([]byte(name)) {
		case exchange.KindContentLength, exchange.KindTransferEncoding:
			fail(at, "the gateway frames its answers itself; leave it out")
		case exchange.KindHop, exchange.KindConnection, exchange.KindUpgrade, exchange.KindTE:
			fail(at, "this header belongs to a connection, not to an answer; leave it out")
		}
		folded := strings.ToLower(name)
		switch folded {
		case "content-type":
			fail(at, "write content_type instead")
		case "date":
			fail(at, "the gateway tells the time itself; leave it out")
		}
		if first, ok := seen[folded]; ok {
			fail(at, "this is the header %s again; give that a list of values", first)
		}
		seen[folded] = name
		for _, value := range c.Headers[name] {
			if !isFieldValue(value) {
				fail(at, "the value has control characters, or spaces around it")
			}
		}
	}
	return errs.Err()
}

// Definition is the action respond.
var Definition = action.Define("respond", build)

func build(_ *action.Build, c *Config) (*action.Action, error) {
	reply := exchange.NewReply(c.Status, exchange.Own)
	reply.Body = []byte(c.Body)
	if c.Body != "" && c.ContentType != "" {
		reply.Head.SetContentType(c.ContentType)
	}
	for _, name := range slices.Sorted(maps.Keys(c.Headers)) {
		for _, value := range c.Headers[name] {
			reply.Head.Add(name, value)
		}
	}
	if http.StatusText(c.Status) == "" {
		// Else fasthttp calls it "Unknown Status Code"; the phrase may be empty (RFC 9112, section 4).
		reply.Head.SetStatusMessage([]byte(" "))
	}
	return &action.Action{Serve: func(x *exchange.Exchange) error {
		x.Reply = reply
		return exchange.Replied
	}}, nil
}

// isFieldValue tells whether s can be the value of a header as it is (RFC 9110, section 5.5).
func isFieldValue(s string) bool {
	return strings.Trim(s, " \t") == s && !strings.ContainsFunc(s, func(r rune) bool { return r < ' ' && r != '\t' || r == 0x7f })
}

// isToken tells whether s can be the name of a header (RFC 9110, section 5.6.2).
func isToken(s string) bool {
	return s != "" && !strings.ContainsFunc(s, func(r rune) bool {
		return !('0' <= r && r <= '9' || 'a' <= r && r <= 'z' || 'A' <= r && r <= 'Z' || strings.ContainsRune("!#$%&'*+-.^_`|~", r))
	})
}
