package cors

import (
	"bytes"
	"errors"
	"net/url"
	"regexp"
	"strconv"
	"strings"

	"sluice/gateway/policy"
)

// origins are those that are allowed by name or pattern.
type origins struct {
	exact     map[string]bool
	wildcards []wildcard
	patterns  []*regexp.Regexp
}

// wildcard is scheme://*.suffix.
type wildcard struct{ scheme, suffix []byte }

// maxOrigin is the longest origin in bytes that is compared; a longer one is allowed nowhere. A host name has 253.
const maxOrigin = 512

var (
	errOrigin = errors.New("is no origin; write scheme://host or scheme://host:port, as https://app.example.com")
	errStar   = errors.New("has a * where it is no wildcard; write https://*.example.com, or a ~regex")
)

func parseOrigins(texts []string) (origins, error) {
	o := origins{exact: map[string]bool{}}
	if len(texts) == 0 {
		return o, policy.Wrong("origins", "allow nobody; list origins, or turn the policy off")
	}
	for i, text := range texts {
		setting := "origins[" + strconv.Itoa(i) + "]"
		if len(texts) == 1 {
			setting = "origins" // also written without a list
		}
		switch pattern, isPattern := strings.CutPrefix(text, "~"); {
		case text == "*":
		case text == "null":
			o.exact[text] = true
		case isPattern:
			// By itself first, so that it can not close the group that anchors it.
			_, err := regexp.Compile(pattern)
			if err != nil {
				return o, policy.Wrong(setting, "%v", err)
			}
			o.patterns = append(o.patterns, regexp.MustCompile(`\A(?:`+pattern+`)\z`))
		default:
			if err := o.add(text); err != nil {
				return o, policy.Wrong(setting, "%q %v", text, err)
			}
		}
	}
	return o, nil
}

// add adds an origin in the form in which browsers send it: lower case, without a default port.
func (o *origins) add(text string) error {
	u, err := url.Parse(strings.Replace(text, "://*.", "://wildcard.", 1))
	if err != nil || u.Scheme == "" || u.Hostname() == "" || u.User != nil || u.Path != "" && u.Path != "/" || u.RawQuery != "" || u.Fragment != "" {
		return errOrigin
	}
	host := strings.ToLower(u.Host)
	switch u.Scheme {
	case "https":
		host = strings.TrimSuffix(host, ":443")
	case "http":
		host = strings.TrimSuffix(host, ":80")
	}
	if strings.Contains(host, "*") {
		return errStar
	}
	if !strings.Contains(text, "://*.") {
		o.exact[u.Scheme+"://"+host] = true
		return nil
	}
	_, suffix, _ := strings.Cut(host, ".")
	o.wildcards = append(o.wildcards, wildcard{[]byte(u.Scheme + "://"), []byte("." + suffix)})
	return nil
}

// match reports whether an origin is allowed. Browsers send it in lower case.
func (o *origins) match(origin []byte) bool {
	if len(origin) > maxOrigin {
		return false
	}
	if o.exact[string(origin)] {
		return true
	}
	for i := range o.wildcards {
		if o.wildcards[i].match(origin) {
			return true
		}
	}
	for _, re := range o.patterns {
		if re.Match(origin) {
			return true
		}
	}
	return false
}

func (w *wildcard) match(origin []byte) bool {
	rest, ok := bytes.CutPrefix(origin, w.scheme)
	if !ok {
		return false
	}
	labels, ok := bytes.CutSuffix(rest, w.suffix)
	if !ok || len(labels) == 0 || labels[0] == '.' {
		return false
	}
	for _, c := range labels {
		if !('a' <= c && c <= 'z' || '0' <= c && c <= '9' || c == '-' || c == '.' || c == '_') {
			return false
		}
	}
	return true
}
