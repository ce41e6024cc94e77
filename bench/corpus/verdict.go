//go:build linux

package main

import (
	"fmt"
	"slices"
	"strings"

	"sluice/gateway/corpustest"
)

// verdict is what became of a case at a gateway.
type verdict struct {
	kind   kind
	agrees bool // with what the corpus expects
	note   string
	// Raw: what the backend saw, or what the client did of a response.
	saw []string
}

type kind string

const (
	refused    kind = "refused"                  // an answer that says so, and the connection ends
	keptOpen   kind = "refused, connection kept" // what follows on it is read as a request
	dropped    kind = "closed without an answer" // refused as well, but silently
	passed     kind = "passed"                   // as the corpus has it
	otherwise  kind = "passed differently"
	cleaned    kind = "passed, made well-formed" // what the corpus refuses
	ambiguous  kind = "passed, not well-formed"  // what the corpus refuses: the backend has to make sense of it
	waits      kind = "waits"                    // for more
	cutOff     kind = "cut off"                  // a response whose end the client misses, and can tell
	usedAgain  kind = "passed, and used again"   // the connection to the backend, which nobody can trust any more
	spoilt     kind = "next answer spoilt"       // another client had what was not for it, or nothing
	gatewayOwn kind = "answered by the gateway"
)

// judgeRequest compares what became of a request with what the corpus expects.
func judgeRequest(c *corpustest.Request, o *outcome, seen []message, partial []string) (v verdict) {
	for i := range seen {
		v.saw = append(v.saw, seen[i].raw)
	}
	statuses := o.statuses()
	good := len(statuses)
	for good > 0 && isRefusal(statuses[good-1]) {
		good--
	}
	expected := len(c.Status)
	for expected > 0 && c.Status[expected-1] >= 400 {
		expected--
	}
	refusing := expected < len(c.Status)
	extra := len(seen) - len(c.Backend) // requests that the backend should not have seen

	if !refusing {
		switch {
		case extra == 0 && good == len(statuses) && (len(seen) == good || len(c.Backend) == 0 && good > 0):
			if notes := differences(c, seen); len(notes) > 0 {
				v.kind, v.note = otherwise, strings.Join(notes, "; ")
				return v
			}
			v.kind, v.agrees = passed, true
			if len(seen) == 0 {
				v.kind = gatewayOwn
			}
		case extra >= 0 && len(seen) > 0:
			v.kind = otherwise
			v.note = fmt.Sprintf("%d requests for %d", len(seen), len(c.Backend))
			if extra == 0 {
				v.note = fmt.Sprintf("answered %v", statuses)
			}
			if len(c.Backend) == 0 {
				v.kind, v.note, v.agrees = passed, "to the backend", true // which may answer for the gateway
			}
		default:
			v.kind, v.note = refusal(o, good)
		}
		return v
	}
	if extra <= 0 {
		v.kind, v.note = refusal(o, good)
		v.agrees = (v.kind == refused || v.kind == keptOpen && !c.Closed) && extra == 0
		if len(partial) > 0 && v.agrees {
			v.note += "; begun at the backend, and given up"
		}
		return v
	}
	v.kind, v.note = cleaned, ""
	for i := range seen {
		if a := ambiguity(seen[i].raw, requestLine); a != "" {
			v.kind, v.note = ambiguous, a
		}
	}
	if extra > 1 {
		v.note = strings.TrimPrefix(fmt.Sprintf("%s; %d requests", v.note, len(seen)), "; ")
	}
	return v
}

// isRefusal tells the statuses that say that a request is bad, or more than
// is spoken here, from those that say that the backend failed.
func isRefusal(status int) bool {
	return status >= 400 && status < 500 || status == 501 || status == 505
}

// refusal says how a request was refused whose answers before were good.
func refusal(o *outcome, good int) (kind, string) {
	statuses := o.statuses()
	switch {
	case good == len(statuses) && !o.ended:
		return waits, ""
	case good == len(statuses):
		return dropped, ""
	case o.ended:
		return refused, fmt.Sprint(statuses[len(statuses)-1])
	}
	return keptOpen, fmt.Sprint(statuses[len(statuses)-1])
}

// differences are those between what the backend should have seen and what it
// saw, in meaning: what a gateway adds itself does not count.
func differences(c *corpustest.Request, seen []message) (notes []string) {
	add := func(format string, args ...any) { notes = append(notes, fmt.Sprintf(format, args...)) }
	for i := range seen {
		want, _ := requestAt([]byte(c.Backend[i]))
		got := &seen[i]
		if a, b := want.word(0), got.word(0); a != b {
			add("method %q for %q", b, a)
		}
		if a, b := want.word(1), got.word(1); a != b {
			add("target %q for %q", b, a)
		}
		if want.body != got.body {
			add("body %s for %s", brief(got.body), brief(want.body))
		}
		a, b := comparable(want.fields), comparable(got.fields)
		for _, f := range a {
			if !slices.Contains(b, f) {
				add("without %s", brief(f))
			}
		}
		for _, f := range b {
			if !slices.Contains(a, f) {
				add("with %s", brief(f))
			}
		}
		if len(want.trailers) > len(got.trailers) {
			add("without the trailers")
		}
		if s := ambiguity(got.raw, requestLine); s != "" {
			add("%s", s)
		}
	}
	return slices.Compact(notes)
}

// comparable are the fields that say the same at every gateway.
func comparable(fields []string) (all []string) {
	for _, line := range fields {
		name, value, _ := strings.Cut(line, ":")
		name, value = strings.ToLower(strings.TrimSpace(name)), strings.TrimSpace(value)
		switch name {
		case "host", "via", "connection", "keep-alive", "upgrade", "content-length", "transfer-encoding", "x-real-ip", "x-correlation-id",
			"x-forwarded-proto", "x-forwarded-host", "x-forwarded-port":
			continue
		case "x-forwarded-for":
			if value == "127.0.0.1" {
				continue
			}
		}
		all = append(all, name+": "+value)
	}
	return all
}

// judgeResponse compares what became of a response. reused: the next request
// came on the same connection to the backend; next is its answer's body.
func judgeResponse(c *corpustest.Response, o *outcome, reused bool, next string) (v verdict) {
	var got *message
	if len(o.answers) > 0 {
		got = &o.answers[0]
	}
	switch {
	case got != nil:
		v.saw = []string{got.raw}
	case o.rest.raw != "":
		v.saw = []string{o.rest.raw}
	}
	whole := c.Status != 0 && c.Status != 502 && !c.Cut
	switch {
	case got == nil && o.cut:
		v.kind, v.agrees = cutOff, !whole
	case got == nil && o.ended:
		v.kind, v.agrees = dropped, !whole
	case got == nil:
		v.kind = waits
	case got.status() >= 500 && got.status() <= 599:
		v.kind, v.note, v.agrees = refused, fmt.Sprint(got.status()), !whole
	case whole && got.status() == c.Status && got.body == string(c.Body):
		v.kind, v.agrees = passed, true
	case whole:
		v.kind, v.note = otherwise, fmt.Sprintf("%d, body %s for %s", got.status(), brief(got.body), brief(string(c.Body)))
	default:
		v.kind, v.note = cleaned, fmt.Sprintf("%d, body %s", got.status(), brief(got.body))
		if a := ambiguity(got.raw, statusLine); a != "" {
			v.kind, v.note = ambiguous, a
		}
	}
	switch {
	case next == "":
		v.kind, v.agrees, v.note = spoilt, false, "there is none"
	case next != "ok":
		v.kind, v.agrees, v.note = spoilt, false, brief(next)
	case reused && !c.Reused && v.kind == passed:
		v.kind, v.agrees = usedAgain, false
	case reused && !c.Reused:
		v.note = strings.TrimPrefix(v.note+"; the connection is used again", "; ")
	}
	return v
}

// brief is the beginning and the end of bytes, as a Go string.
func brief(s string) string { return abbreviated(s, 50) }

func abbreviated(s string, most int) string {
	if len(s) > most {
		return fmt.Sprintf("%q…%q", s[:most*2/3], s[len(s)-most/3:])
	}
	return fmt.Sprintf("%q", s)
}
