package apiversion

import (
	"bytes"

	"github.com/valyala/fasthttp"

	"sluice/gateway/document"
	"sluice/gateway/exchange"
)

// state is what the policy knows of one exchange.
type state struct {
	// Kept with the pooled exchange.
	request, response []byte

	turn
}

// turn is the part of the state that each exchange begins without.
type turn struct {
	path   []byte // without the version; set where the version has changes
	marked bool   // the client compares with an answer of this version
}

var states = exchange.NewSlot[state]()

const maxKept = 16 << 10 // bytes of a buffer that stay with an idle exchange

// Reset makes the state ready for the next exchange.
func (st *state) Reset() {
	if cap(st.request) > maxKept {
		st.request = nil
	}
	if cap(st.response) > maxKept {
		st.response = nil
	}
	st.turn = turn{}
}

var (
	rejectMalformed = exchange.NewReject(fasthttp.StatusBadRequest, "malformed_json", "the request body is not well-formed JSON")
	rejectEncoded   = exchange.NewReject(fasthttp.StatusUnsupportedMediaType, "api_version_encoded",
		"a request of an old version of the API must not have an encoded body", exchange.Header("Accept-Encoding", "identity"))
	rejectAnswerEncoded = exchange.NewReject(fasthttp.StatusBadGateway, "api_version_answer_encoded",
		"the service's answer can not be brought to this version of the API: it is encoded")
)

func init() { rejectEncoded.Close = true } // the body was not read

// ahead finds out which version the request speaks, so that whatever is stored is told apart by it, and tells the client.
func (p *api) ahead(x *exchange.Exchange) error {
	f, ok := p.find(x)
	if !ok {
		p.unknowns.Inc()
		return p.unknown
	}
	v := &p.versions[f.version]
	v.requests.Inc()
	p.consumer.inc(x.Identity.Consumer, f.version)
	p.take(x, &f)
	for i := range v.headers {
		if e := &v.headers[i]; e.Op == exchange.EditSet {
			x.ToClient.Set(e.Name, e.Value)
		} else {
			x.ToClient.Add(e.Name, e.Value)
		}
	}
	if v.isGone(x.Arrived) {
		return v.gone
	}
	return nil
}

// versionOf is the version that ahead has found, of the exchange or of the one that it is a copy of.
func (p *api) versionOf(x *exchange.Exchange) *version { return &p.versions[p.index[x.APIVersion]] }

func (p *api) take(x *exchange.Exchange, f *found) {
	x.APIVersion = p.versions[f.version].name
	if p.strip {
		x.CutFrom, x.CutTo = f.from, f.to
	}
}

// explain says what ahead would do.
func (p *api) explain(x *exchange.Exchange) string {
	f, ok := p.find(x)
	if !ok {
		return "an unknown version by " + f.source + ": 400, " + p.unknown.Detail
	}
	p.take(x, &f)
	v := &p.versions[f.version]
	switch {
	case v.isGone(x.Arrived):
		return "version " + v.name + " by " + f.source + ": 410, " + v.gone.Detail
	case f.version == len(p.versions)-1:
		return "version " + v.name + " by " + f.source + ", the current one"
	}
	up, down := 0, 0
	path := pathOf(x, f.from, f.to)
	for _, s := range v.up {
		if s.where.matches(x.Request.Header.Method(), path) {
			up++
		}
	}
	for _, s := range v.down {
		if s.where.matches(x.Request.Header.Method(), path) {
			down++
		}
	}
	return "version " + v.name + " by " + f.source + ", " + plural(up) + " up to " + string(p.current) + " and " + plural(down) + " down"
}

// pathOf is the path without the version.
func pathOf(x *exchange.Exchange, from, to int) []byte {
	if from == to {
		return x.Path
	}
	return x.Keep(append(append(x.Scratch(), x.Path[:from]...), x.Path[to:]...))
}

// request brings the request up to the current version.
func (p *api) request(x *exchange.Exchange) error {
	st, v := states.Of(x), p.versionOf(x)
	if len(v.up)+len(v.down) > 0 {
		_, from, to := p.fromPath.find(x.Path)
		st.path = pathOf(x, from, to)
		// First, since it may pause.
		if err := p.climb(st, v, x); err != nil {
			return err
		}
		for _, s := range v.up {
			if s.headersUp && s.where.matches(x.Method(), st.path) {
				for i := range s.headers {
					s.headers[i].up(x)
				}
			}
		}
	}
	p.tell(x)
	changes := p.changesAnswer(st, v, x)
	p.unmark(st, v, x, changes)
	if changes {
		// A part of an answer, or an encoded one, could not be changed.
		x.ToBackend.Set("Accept-Encoding", identity)
		x.ToBackend.Remove("Range")
		x.ToBackend.Remove("If-Range")
	}
	return nil
}

var identity = []byte("identity")

// climb changes the body.
func (p *api) climb(st *state, v *version, x *exchange.Exchange) error {
	concerned := false
	for _, s := range v.up {
		concerned = concerned || s.up != nil && s.where.matches(x.Method(), st.path)
	}
	if !concerned || !x.HasBody() || !isJSON(x.RequestHeader(fasthttp.HeaderContentType)) {
		return nil
	}
	if e := x.RequestHeader(fasthttp.HeaderContentEncoding); len(e) > 0 && !exchange.EqualFold(e, "identity") {
		return rejectEncoded
	}
	if x.Request.Header.ContentLength() > p.maxBody {
		return p.bodyTooLarge
	}
	body, whole, err := x.HoldBody(p.maxBody)
	switch {
	case err != nil:
		return err
	case !whole:
		return p.bodyTooLarge
	case len(bytes.TrimSpace(body)) == 0:
		return nil
	}
	d, err := document.Parse(body)
	if err != nil {
		return rejectMalformed
	}
	for _, s := range v.up {
		if s.up != nil && s.where.matches(x.Method(), st.path) {
			s.up(d)
		}
	}
	if d.Changed() {
		st.request = d.Append(st.request[:0])
		x.Body = st.request
		for _, name := range digests {
			x.ToBackend.Remove(name)
		}
	}
	return nil
}

// digests are of the body as it was.
var digests = [...]string{"Content-MD5", "Digest", "Content-Digest", "Repr-Digest"}

// tell tells the backend which version it is asked in.
func (p *api) tell(x *exchange.Exchange) {
	if p.header != "" {
		x.ToBackend.Set(p.header, p.current)
	}
	if !p.strip {
		return
	}
	if p.fromHeader != "" && !exchange.EqualFold([]byte(p.header), p.fromHeader) {
		x.ToBackend.Remove(p.fromHeader)
	}
	if p.fromQuery != "" {
		if _, n := x.QueryValue(p.fromQuery); n > 0 {
			x.SetUpstreamQuery(x.Keep(exchange.QueryWithout(x.Scratch(), x.BackendQuery(), p.fromQuery)))
		}
	}
}

// changesAnswer tells whether the body of an answer is going to be changed.
func (p *api) changesAnswer(st *state, v *version, x *exchange.Exchange) bool {
	for _, s := range v.down {
		if s.down != nil && s.where.matches(x.Method(), st.path) {
			return true
		}
	}
	return false
}

// isJSON tells media types whose bodies are JSON.
func isJSON(contentType []byte) bool {
	contentType, _, _ = bytes.Cut(contentType, semicolon)
	contentType = bytes.TrimSpace(contentType)
	if n := len(contentType) - len("+json"); n > 0 && exchange.EqualFold(contentType[n:], "+json") {
		return true
	}
	return exchange.EqualFold(contentType, "application/json") || exchange.EqualFold(contentType, "text/json")
}

var semicolon = []byte(";")
