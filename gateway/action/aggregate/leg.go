package aggregate

import (
	"bytes"
	"fmt"
	"io"
	"log/slog"
	"runtime/debug"
	"slices"
	"strconv"
	"strings"

	"github.com/valyala/fasthttp"

	"sluice/gateway/cache"
	"sluice/gateway/coding"
	"sluice/gateway/document"
	"sluice/gateway/exchange"
)

// leg is one call on its way, in a goroutine of its own. It may outlive the request, and then ends when the sweeper of the backends' connections finds that
// nobody waits.
type leg struct {
	a      *aggregate
	call   *call
	shared *shared
	x      *exchange.Exchange
	taken  int // bytes of its answer
}

// outcome is how a call ended. Nothing in it is borrowed.
type outcome struct {
	result   result
	value    *document.Value  // of a call that is ok
	reject   *exchange.Reject // of any other
	aborted  bool             // it was given up, since nobody waited
	attempts int
	toClient []exchange.HeaderEdit // beside reject

	status      int
	pass        bool // body is for the client, with this status
	body        []byte
	contentType string
	back        []header

	control      cache.Control
	age          int64
	says, expiry bool // there are Cache-Control; Expires or Pragma
	varies       []string
}

// send carries the call out and tells how it ended.
func (l *leg) send(i int, ended chan<- end) {
	out := outcome{result: failed, reject: rejectFault}
	defer func() {
		if fault := recover(); fault != nil {
			// The exchange is in no state to be used again.
			l.a.log.Log(slog.LevelError, "panic", "a call of an aggregate met a fault of the gateway; please report it",
				"route", l.a.route, "call", l.call.name, "fault", fmt.Sprint(fault), "stack", string(debug.Stack()))
			out = outcome{result: failed, reject: rejectFault}
		}
		ended <- end{i, out}
	}()
	out = l.forward()
	if out.result != ok {
		l.giveBack()
	}
	out.attempts = l.x.Attempts
	_ = l.x.Response.CloseBodyStream()
	_ = l.x.Close()
}

func (l *leg) forward() outcome {
	x := l.x
	if err := l.call.service.Forward(x); err != nil {
		return l.refused(err)
	}
	out := outcome{status: x.Response.StatusCode()}
	fails := func(r *exchange.Reject) outcome {
		out.result, out.reject = failed, r
		return out
	}
	good := out.status >= 200 && out.status <= 299
	out.pass = out.status >= 400 && out.status <= 499 && l.call.passStatus[out.status-400]
	if !good && !out.pass {
		return fails(rejectStatus)
	}
	l.heads(&out)
	body, err := l.read()
	switch {
	case err == rejectLarge:
		out.pass = false
		return fails(rejectLarge)
	case err != nil:
		return l.refused(err)
	}
	if out.pass {
		return l.passOn(out, body)
	}
	text := body
	if len(body) == 0 && (out.status == fasthttp.StatusNoContent || out.status == fasthttp.StatusResetContent) {
		text = null
	}
	value, err := document.Check(text)
	if err != nil {
		return fails(rejectJSON)
	}
	if l.call.hasExtract {
		if value = value.Get(l.call.extract); value == nil {
			return fails(rejectType)
		}
	}
	if !fits(l.call.wants, value) {
		return fails(rejectType)
	}
	out.result, out.value = ok, value
	return out
}

var null = []byte("null")

// passOn makes an answer for the client of one of the client's own faults.
func (l *leg) passOn(out outcome, body []byte) outcome {
	out.result, out.reject = failed, rejectStatus
	if t := l.x.ResponseHeader(fasthttp.HeaderContentType); isJSON(t) {
		if _, err := document.Check(body); err == nil {
			out.body, out.contentType = body, string(t)
			return out
		}
	}
	// What is no JSON stays here: it may tell of the service what is not for clients.
	out.pass = false
	out.reject = exchange.NewReject(out.status, "aggregate_status", "a service refused the request")
	return out
}

// refused is the outcome of a call without an answer.
func (l *leg) refused(err error) outcome {
	out := outcome{result: failed, aborted: l.x.Aborted.Load()}
	var isReject bool
	if out.reject, isReject = err.(*exchange.Reject); !isReject {
		out.reject = rejectFault
	}
	if out.reject.Status == fasthttp.StatusGatewayTimeout {
		out.result = late
	}
	for _, e := range l.x.ToClient.List() {
		out.toClient = append(out.toClient, exchange.HeaderEdit{Name: e.Name, Value: bytes.Clone(e.Value)})
	}
	return out
}

// heads remembers what the client, or a cache, is told of the answer.
func (l *leg) heads(out *outcome) {
	for name, value := range l.x.Response.Header.All() {
		switch {
		case exchange.EqualFold(name, fasthttp.HeaderCacheControl):
			out.control.Add(bytes.Clone(value))
			out.says = true
		case exchange.EqualFold(name, "Expires"), exchange.EqualFold(name, "Pragma"):
			out.expiry = true
		case exchange.EqualFold(name, "Age"):
			out.age, _ = strconv.ParseInt(string(value), 10, 64)
		case exchange.EqualFold(name, fasthttp.HeaderVary):
			out.varies = append(out.varies, strings.Split(string(value), ",")...)
		}
		if slices.ContainsFunc(l.call.back, func(n string) bool { return exchange.EqualFold(name, n) }) {
			out.back = append(out.back, header{string(name), bytes.Clone(value)})
		}
	}
}

// read takes the body in, as long as there is room for it.
func (l *leg) read() ([]byte, error) {
	x := l.x
	if !x.HasResponseBody() {
		return nil, nil
	}
	var body []byte
	if !x.Response.IsBodyStream() {
		held := x.Response.Body()
		if !l.take(len(held)) {
			return nil, rejectLarge
		}
		body = bytes.Clone(held)
	} else {
		stream := x.Response.BodyStream()
		for {
			body = slices.Grow(body, 4<<10)
			n, err := stream.Read(body[len(body):cap(body)])
			body = body[:len(body)+n]
			if !l.take(n) {
				return nil, rejectLarge
			}
			if err == io.EOF {
				break
			}
			if err != nil || x.Clock.Now() >= x.Until || l.shared.isOver() {
				return nil, exchange.ErrResponseBody
			}
		}
	}
	decoded, err := coding.Decode(x.ResponseHeader(fasthttp.HeaderContentEncoding), body, l.a.most)
	switch {
	case err == coding.ErrTooLarge:
		return nil, rejectLarge
	case err != nil:
		return nil, rejectJSON
	case len(decoded) != len(body) && !l.take(len(decoded)):
		return nil, rejectLarge
	}
	return decoded, nil
}

// isOver tells whether the request has its answer.
func (s *shared) isOver() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.over
}

// isJSON tells whether a Content-Type is one of JSON (RFC 8259, section 11; RFC 6839, section 3.1).
func isJSON(contentType []byte) bool {
	t, _, _ := bytes.Cut(contentType, []byte(";"))
	t = bytes.ToLower(exchange.TrimOWS(t))
	return string(t) == typeJSON || bytes.HasPrefix(t, []byte("application/")) && bytes.HasSuffix(t, []byte("+json"))
}

// freshness is what all answers together allow to caches.
type freshness struct {
	answers, explicit         int
	noStore, noCache, private bool
	lifetime                  int64
	names                     []string
}

func (f *freshness) add(out *outcome) {
	f.answers++
	c := &out.control
	f.noStore = f.noStore || c.Has(cache.NoStore) || !out.says && out.expiry
	f.noCache = f.noCache || c.Has(cache.NoCache|cache.NoCacheFields)
	f.private = f.private || c.Has(cache.Private|cache.PrivateFields)
	if c.Has(cache.MaxAge | cache.SMaxAge) {
		lifetime := int64(never)
		if c.Has(cache.MaxAge) {
			lifetime = c.MaxAge
		}
		if c.Has(cache.SMaxAge) {
			lifetime = min(lifetime, c.SMaxAge)
		}
		lifetime = max(lifetime-max(out.age, 0), 0)
		if f.explicit++; f.explicit == 1 || lifetime < f.lifetime {
			f.lifetime = lifetime
		}
	}
	for _, name := range out.varies {
		name = strings.TrimSpace(name)
		// The coding of a call's answer is not that of the client's.
		if name != "" && !strings.EqualFold(name, fasthttp.HeaderAcceptEncoding) && !slices.ContainsFunc(f.names, func(n string) bool { return strings.EqualFold(n, name) }) {
			f.names = append(f.names, name)
		}
	}
}

// control is the Cache-Control of the document, "" where no answer has said anything. Where only some say how long they are fresh, nobody
// knows it of the whole. public, s-maxage and must-revalidate do not go on: each lets a cache keep for all what one user was answered (RFC 9111, section
// 3.5), and not every service has said so.
func (f *freshness) control() string {
	var words []string
	switch {
	case f.noStore || f.explicit > 0 && f.explicit < f.answers:
		return "no-store"
	case f.noCache:
		words = append(words, "no-cache")
	}
	if f.private {
		words = append(words, "private")
	}
	if f.explicit > 0 {
		words = append(words, "max-age="+strconv.FormatInt(f.lifetime, 10))
	}
	return strings.Join(words, ", ")
}

func (f *freshness) vary() string {
	if slices.Contains(f.names, "*") {
		return "*"
	}
	return strings.Join(f.names, ", ")
}
