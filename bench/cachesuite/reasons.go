//go:build linux

package main

import "strings"

// reasons are why tests of the suite, by the beginning of their ids, do not pass
// and are not to.
var reasons = []struct{ prefix, why string }{
	{"age-parse-nonnumeric", invalidAge},
	{"age-parse-negative", invalidAge},
	{"age-parse-float", invalidAge},
	{"age-parse-parameter", invalidAge},
	{"age-parse-numeric-parameter", invalidAge},
	{"age-parse-prefix-twoline", listedAge},
	{"age-parse-dup-", listedAge},
	{"stale-close-", "the suite's origin closes the connection and the test wants its answer all the same, so that no cache can pass. Sluice answers 502 rather than what is stale"},
	{"headers-store-Transfer-Encoding", "the origin sends a transfer coding that does not exist; where such a body ends nobody knows (RFC 9112 6.3), and Sluice answers 502 rather than guess"},
	{"304-etag-update-response-ETag", "the 304 has another strong entity tag than what is stored, and must not be used to update that (RFC 9111 4.3.4): it stays stale and is asked about again"},
	{"vary-normalise-lang-select", "`en, de` and `fr;q=0.5, de` do not mean the same, so they must not match (RFC 9111 4.1): which language an origin has for the second only it can tell"},
	{"conditional-lm-fresh-no-lm", "what is stored is newer than If-Modified-Since says, by the Date that stands in for Last-Modified: a 304 would leave the client with the old one (RFC 9111 4.3.2)"},
	{"partial-store-partial-", "206 is not stored, by design: a range of what is not there whole goes to the backend. In these tests Content-Range tells of six bytes or of the wrong ones besides"},
}

const (
	older      = ". This version of the suite is older than the RFC; its later ones ask for what Sluice does"
	invalidAge = "an Age that is not a number is ignored (RFC 9111 5.1)" + older
	listedAge  = "of several Age the first counts (RFC 9111 5.1), and it is younger than the lifetime" + older
)

// reason is why a test is not to pass, "" where nobody has said so.
func reason(id string) string {
	for _, r := range reasons {
		if strings.HasPrefix(id, r.prefix) {
			return r.why
		}
	}
	return ""
}
