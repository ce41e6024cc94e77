// Package audit writes for every request of a route who called what, what the gateway decided and why, into a log whose
// records name each other's hashes. It guarantees that no request waits for the disk; that what could not be written is
// itself recorded; and that no record holds a credential.
package audit

import (
	"bytes"
	"errors"
	"fmt"
	"net/netip"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"sluice/config"
	"sluice/gateway/chain"
	"sluice/gateway/exchange"
	"sluice/gateway/policy"
)

// Config are the settings of the policy `audit`. A record is on the disk within a second. Each has a number and the hash of the one before it; `sluice audit verify
// FILE` names the first line that was changed, removed or put between others. The file gets a successor when it has `max_size`, or on SIGUSR1 after it was renamed, and the chain goes on in it.
// What there was no room or no disk for is a record of its own, `"event":"lost"`, and counted in `sluice_audit_lost_total`. `decision` is `allowed`, `denied` (the gateway refused the
// request: `reason` says why) or `failed` (it could not answer: 5xx).
type Config struct {
	// Path of the file, which only its owner may read. Routes with the same path share a chain. Default: `audit/requests.log` in `state.dir`, without which a path is required.
	Path string `yaml:"path"`
	// Mask names what is recorded as `[masked]`: the fields `client_ip`, `subject`, `consumer`, `host`, `path`, parameters of the query, and headers.
	Mask []string `yaml:"mask"`
	// Query records the query. Parameters whose names sound like a secret are masked, named in `mask` or not.
	Query bool `yaml:"query"`
	// Headers of the request to record, as `User-Agent`. Those that carry credentials are refused.
	Headers []string `yaml:"headers"`
	// MaxSize of a file. One that has grown to it is renamed to its name and the number of its first record, and a new one begins.
	MaxSize config.Size `yaml:"max_size" default:"256MiB" min:"64KiB"`
}

// Definition is the policy `audit`.
var Definition = policy.Define("audit", policy.Observe, build)

// defaultFile is where records go in state.dir.
const defaultFile = "audit/requests.log"

// Validate judges the settings by themselves.
func (c *Config) Validate() error {
	var errs []error
	for i, h := range c.Headers {
		switch {
		case !exchange.IsToken(h):
			errs = append(errs, config.Errorf(fmt.Sprintf("headers[%d]", i), "%q can not be the name of a header", h))
		case strings.EqualFold(h, "Cookie") || config.SoundsSecret(h):
			errs = append(errs, config.Errorf(fmt.Sprintf("headers[%d]", i), "%s carries credentials, which no record may hold; leave it out", h))
		}
	}
	for i, m := range c.Mask {
		if m == "" {
			errs = append(errs, config.Errorf(fmt.Sprintf("mask[%d]", i), "is empty; name a field, a parameter of the query or a header"))
		}
	}
	return errors.Join(errs...)
}

type auditor struct {
	log     *chain.Log
	query   bool
	headers []header
	mask    masks
	names   map[string]bool // of query parameters, lower case
}

type header struct {
	name   string // canonical
	member []byte // its name as JSON, with comma and colon
	masked bool
}

// masks are the fields that are not told.
type masks struct{ clientIP, subject, consumer, host, path bool }

func build(b *policy.Build, c *Config) (policy.Hooks, error) {
	path, err := place(b.World.Config.State.Dir, c.Path)
	if err != nil {
		return policy.Hooks{}, err
	}
	a := &auditor{query: c.Query, names: make(map[string]bool)}
	for _, m := range c.Mask {
		switch m {
		case "client_ip":
			a.mask.clientIP = true
		case "subject":
			a.mask.subject = true
		case "consumer":
			a.mask.consumer = true
		case "host":
			a.mask.host = true
		case "path":
			a.mask.path = true
		}
		a.names[strings.ToLower(m)] = true
	}
	for _, h := range c.Headers {
		name := string(exchange.AppendJSONString(nil, []byte(strings.ToLower(h))))
		masked := slices.ContainsFunc(c.Mask, func(m string) bool { return strings.EqualFold(m, h) })
		a.headers = append(a.headers, header{h, []byte(`,` + name + `:`), masked})
	}
	hooks := policy.Hooks{Done: a.done}
	if b.World.DryRun {
		return hooks, nil
	}
	a.log, err = policy.LivingAs(b.World, "audit/"+path, func() (*chain.Log, error) {
		return chain.Open(path, chain.Options{
			Log: b.World.Log, Now: b.World.Clock.Time, MaxSize: int64(c.MaxSize), Lost: func(n int) { b.World.Metrics.AuditLost.Add(int64(n)) },
		})
	})
	if err != nil {
		return policy.Hooks{}, policy.Wrong("path", "the log can not be written: %v", err)
	}
	return hooks, nil
}

// place is the file that records go to.
func place(dir, path string) (string, error) {
	switch {
	case path == "" && dir == "":
		return "", policy.Wrong("path", "is missing, and there is no state.dir to keep the records in; set one of the two")
	case path == "":
		path = filepath.Join(dir, defaultFile)
	case path == "stdout" || path == "stderr" || strings.HasSuffix(path, "/"):
		return "", policy.Wrong("path", "%q is no file; a chain has to be read again after a restart", path)
	}
	return filepath.Abs(path)
}

const masked = `"[masked]"`

// Lengths of what a client can make long.
const (
	maxPath   = 4 << 10
	maxHeader = 1 << 10
	maxWord   = 512
)

func (a *auditor) done(x *exchange.Exchange) {
	b := x.Scratch()
	b = append(x.Arrived.UTC().AppendFormat(append(b, `"time":"`...), time.RFC3339Nano), '"')
	b = member(b, `,"request_id":`, x.RequestID, maxWord, false)
	b = a.clientIP(b, x.ClientAddr)
	b = member(b, `,"method":`, x.Method(), maxWord, false)
	b = member(b, `,"host":`, x.Host, maxWord, a.mask.host)
	b = member(b, `,"path":`, pathOf(x), maxPath, a.mask.path)
	if a.query && len(x.Query) > 0 {
		b = append(b, `,"query":`...)
		b = a.appendQuery(b, x.Query)
	}
	if x.Route != nil {
		b = text(b, `,"route":`, x.Route.Name)
	}
	if x.Tenant != nil {
		b = text(b, `,"tenant":`, x.Tenant.Name)
	}
	b = a.identity(b, &x.Identity)
	b = append(strconv.AppendInt(append(b, `,"status":`...), int64(x.Status), 10), `,"decision":"`...)
	b = decision(b, x)
	b = append(strconv.AppendInt(append(b, `,"bytes_in":`...), x.BytesIn, 10), `,"bytes_out":`...)
	b = append(strconv.AppendInt(b, x.BytesOut, 10), `,"duration_us":`...)
	b = strconv.AppendInt(b, (x.Ended-x.Start)/1000, 10)
	if len(a.headers) > 0 {
		b = a.appendHeaders(b, x)
	}
	a.log.Append(x.Keep(b))
}

func (a *auditor) clientIP(b []byte, addr netip.Addr) []byte {
	b = append(b, `,"client_ip":`...)
	if a.mask.clientIP {
		return append(b, masked...)
	}
	return append(addr.Unmap().AppendTo(append(b, '"')), '"')
}

// identity says who called: nobody, a consumer, or a subject that is none.
func (a *auditor) identity(b []byte, id *exchange.Identity) []byte {
	if id.Consumer != nil {
		b = member(b, `,"consumer":`, id.Consumer.NameHeader, maxWord, a.mask.consumer)
	}
	if !id.Authenticated {
		return b
	}
	b = text(b, `,"auth":`, id.Method)
	if id.Subject != nil && (id.Consumer == nil || !bytes.Equal(id.Subject, id.Consumer.NameHeader)) {
		b = member(b, `,"subject":`, id.Subject, maxWord, a.mask.subject)
	}
	return member(b, `,"credential":`, id.Credential, maxWord, false)
}

// decision appends what became of the request, the quote that ends it, and why.
func decision(b []byte, x *exchange.Exchange) []byte {
	reason := x.Reason
	if x.Reject != nil {
		reason = x.Reject.Reason
	}
	switch {
	case x.Reject != nil && x.Status >= 500:
		b = append(b, `failed"`...)
	case x.Reject != nil:
		b = append(b, `denied"`...)
	default:
		b = append(b, `allowed"`...)
	}
	if reason != "" {
		b = text(b, `,"reason":`, reason)
	}
	if x.AuthFailure != "" {
		b = text(b, `,"auth_failure":`, x.AuthFailure)
	}
	return b
}

func (a *auditor) appendHeaders(b []byte, x *exchange.Exchange) []byte {
	b = append(b, `,"headers":{`...)
	start := len(b)
	for i := range a.headers {
		h := &a.headers[i]
		v := x.RequestHeader(h.name)
		if v == nil {
			continue
		}
		name := h.member
		if len(b) == start {
			name = name[1:]
		}
		b = member(b, string(name), v, maxHeader, h.masked)
	}
	return append(b, '}')
}

// appendQuery appends the query with the values of masked parameters replaced.
func (a *auditor) appendQuery(b, query []byte) []byte {
	b = append(b, '"')
	start := len(b)
	for rest := query; len(rest) > 0 && len(b)-start < maxPath; {
		var pair []byte
		if i := bytes.IndexByte(rest, '&'); i >= 0 {
			pair, rest = rest[:i], rest[i+1:]
		} else {
			pair, rest = rest, nil
		}
		if len(b) > start {
			b = append(b, '&')
		}
		name, value, has := bytes.Cut(pair, []byte{'='})
		b = inside(b, name, maxHeader)
		if !has {
			continue
		}
		b = append(b, '=')
		if a.secret(name) {
			b = append(b, `[masked]`...)
		} else {
			b = inside(b, value, maxHeader)
		}
	}
	return append(b, '"')
}

// secret tells whether a parameter's value is masked. A name in escapes is taken for one that is to be.
func (a *auditor) secret(name []byte) bool {
	if bytes.IndexByte(name, '%') >= 0 || bytes.IndexByte(name, '+') >= 0 || len(name) > 64 {
		return true
	}
	var low [64]byte
	for i, c := range name {
		if 'A' <= c && c <= 'Z' {
			c += 'a' - 'A'
		}
		low[i] = c
	}
	key := low[:len(name)]
	if a.names[string(key)] {
		return true
	}
	for _, word := range secretWords {
		if bytes.Contains(key, word) {
			return true
		}
	}
	return false
}

// secretWords are parts of names whose values no log should have.
var secretWords = [][]byte{[]byte("key"), []byte("token"), []byte("secret"), []byte("pass"), []byte("auth"), []byte("sig"), []byte("code"), []byte("session"), []byte("credential"), []byte("jwt")}

func member(b []byte, name string, v []byte, most int, hidden bool) []byte {
	if len(v) == 0 {
		return b
	}
	b = append(b, name...)
	if hidden {
		return append(b, masked...)
	}
	return exchange.AppendJSONString(b, v[:min(len(v), most)])
}

func text(b []byte, name, v string) []byte {
	b = append(append(b, name...), '"')
	for i := range len(v) {
		if c := v[i]; c < ' ' || c == '"' || c == '\\' {
			b = append(b, '_') // names of the configuration have none of them
			continue
		}
		b = append(b, v[i])
	}
	return append(b, '"')
}

// inside appends a part of a JSON string.
func inside(b, v []byte, most int) []byte {
	from := len(b)
	b = exchange.AppendJSONString(b, v[:min(len(v), most)])
	n := copy(b[from:], b[from+1:len(b)-1])
	return b[:from+n]
}

// pathOf is the canonical path, or that of the request where it has none that is usable, without its query.
func pathOf(x *exchange.Exchange) []byte {
	if x.Path != nil || x.Unread {
		return x.Path
	}
	path := x.Request.Header.RequestURI()
	if end := bytes.IndexAny(path, "?#"); end >= 0 {
		path = path[:end]
	}
	return path
}
