// Package compression puts response bodies into a content coding that the
// client accepts (RFC 9110, section 8.4), as they pass: what a backend has sent
// reaches the client without waiting for more. It guarantees that nothing is
// coded twice, that validators tell the forms of a response apart and conditional
// requests go on working, and that a stored response is coded once and not for
// each client.
package compression

import (
	"bytes"
	"slices"
	"unsafe"

	"sluice/config"
	"sluice/gateway/coding"
	"sluice/gateway/exchange"
	"sluice/gateway/policy"
	"sluice/gateway/telemetry"
)

// Config are the settings of the policy `compression`. Left as they are: server-sent events, gRPC, parts of a response (206), what is encoded
// already, what says `Cache-Control: no-transform` or answers a request that says so, and the gateway's own errors. Of codings
// that the client likes equally (RFC 9110, section 12.5.3) the first of `encodings` is taken. A strong `ETag` gets the coding as a
// suffix (`"a"` becomes `"a~gzip"`), which is taken off again where the client sends it in `If-None-Match` or `If-Match`, so that both
// caches and optimistic locking work; `Accept-Ranges` and digests of the body are left out. Do not compress answers that hold a secret
// beside what another site can make a visitor send (BREACH).
type Config struct {
	// Encodings in the order of preference.
	Encodings []string `yaml:"encodings" enum:"zstd|br|gzip" default:"zstd,br,gzip"`
	// MinSize is the length of body from which on it is compressed. One whose length is not known is compressed always.
	MinSize config.Size `yaml:"min_size" default:"1KiB"`
	// ContentTypes that are compressed: `application/json`, `text/*` or `application/*+json`.
	ContentTypes []string `yaml:"content_types" default:"text/*,application/json,application/*+json,application/javascript,application/x-javascript,application/x-ndjson,application/xml,application/*+xml,application/wasm,application/yaml,application/graphql,application/vnd.ms-fontobject,font/ttf,font/otf,image/svg+xml,image/bmp,image/x-icon"`
	// Keep bounds the memory for compressed forms of responses that the policy `cache` has stored; `0` compresses them for each client anew.
	Keep config.Size `yaml:"keep" default:"16MiB"`
}

// Definition is the policy `compression`.
var Definition = policy.Define("compression", policy.Encode, build)

// compressor is the policy at one place.
type compressor struct {
	order   []coding.Coding
	types   []mediaType
	minSize int
	forms   *forms
	in, out [coding.Count]*telemetry.Counter
}

func build(b *policy.Build, c *Config) (policy.Hooks, error) {
	p := &compressor{minSize: int(c.MinSize)}
	for _, name := range c.Encodings {
		known, _ := coding.Named(name)
		if slices.Contains(p.order, known) {
			return policy.Hooks{}, policy.Wrong("encodings", "names %s twice", name)
		}
		p.order = append(p.order, known)
	}
	if len(p.order) == 0 {
		return policy.Hooks{}, policy.Wrong("encodings", "is empty; name zstd, br or gzip, or turn the policy off")
	}
	for _, text := range c.ContentTypes {
		t, err := parseType(text)
		if err != nil {
			return policy.Hooks{}, policy.Wrong("content_types", "%q %v", text, err)
		}
		p.types = append(p.types, t)
	}
	if len(p.types) == 0 {
		return policy.Hooks{}, policy.Wrong("content_types", "is empty, so that nothing is compressed; name some, or turn the policy off")
	}
	if b.World.DryRun {
		return policy.Hooks{Request: p.request, Response: p.response, Blocking: true}, nil
	}
	var err error
	if p.forms, err = policy.Living(b, "forms", newForms); err != nil {
		return policy.Hooks{}, err
	}
	p.forms.bound(int64(c.Keep))
	route := "-"
	if b.Route != nil {
		route = b.Route.Name
	}
	m := b.World.Metrics
	for _, c := range p.order {
		p.in[c] = m.CompressedBytes.With(b.World.Generation, route, c.String(), "in")
		p.out[c] = m.CompressedBytes.With(b.World.Generation, route, c.String(), "out")
	}
	_, _ = policy.Once(b.World, "compression/bytes", func() (bool, error) {
		m.CompressionBytes.With(b.World.Generation, func() float64 { return float64(kept.Load()) })
		return true, nil
	})
	return policy.Hooks{Request: p.request, Response: p.response, Blocking: true}, nil
}

// state is the policy's part of one exchange.
type state struct {
	p      *compressor
	enc    *coding.Encoder
	coding coding.Coding
	stream exchange.ResponseStream
	hook   exchange.BodyHook // bound once
	asked  [][]byte          // the entity tags of If-None-Match as they came, where one was changed
}

var states = exchange.NewSlot[state]()

// Reset makes the state ready for the next exchange. The answer is gone by now,
// and with it what the encoder held of it.
func (st *state) Reset() {
	if st.enc != nil {
		st.enc.Release()
	}
	clear(st.asked)
	*st = state{hook: st.hook, asked: st.asked[:0]}
}

// response compresses an answer.
func (p *compressor) response(x *exchange.Exchange) error {
	if x.Reject != nil || x.Answer == exchange.Tunnel {
		return nil //nolint:nilerr // the gateway's own refusal is no failure of this hook
	}
	status := x.Response.StatusCode()
	if status == 304 {
		p.notModified(x)
		return nil
	}
	head := x.Request.Header.IsHead()
	if status < 200 || status == 204 || status == 206 || !head && !x.HasResponseBody() || !p.compressible(x) {
		return nil
	}
	var a acceptance
	a.read(x)
	forced := a.refusesIdentity()
	if n := length(x); n >= 0 && n < p.minSize && (!forced || n == 0) {
		return nil
	}
	vary(x)
	c := a.choose(p.order)
	if c == coding.Identity || transformRefused(x) {
		return nil
	}
	if x.Response.IsBodyStream() || x.HasBodyHooks() {
		p.describe(x, c)
		return p.begin(x, c)
	}
	body := x.Response.Body()
	if head && len(body) == 0 {
		p.describe(x, c)
		// How long the coded body would be is not known.
		exchange.DelResponse(&x.Response.Header, "Content-Length")
		return nil
	}
	coded, err := p.whole(x, c, body)
	if err != nil || coded == nil || len(coded) >= len(body) && !forced {
		return err
	}
	p.describe(x, c)
	x.Response.SetBodyRaw(coded)
	return nil
}

// begin compresses a body as it passes.
func (p *compressor) begin(x *exchange.Exchange, c coding.Coding) error {
	st := states.Of(x)
	if st.hook == nil {
		st.hook = pass
	}
	st.p, st.coding, st.enc = p, c, coding.NewEncoder(c)
	st.stream, _ = x.Response.BodyStream().(exchange.ResponseStream)
	return x.FilterBody(st.hook, true)
}

// pass compresses a chunk.
func pass(x *exchange.Exchange, chunk []byte, last bool) ([]byte, error) {
	if len(chunk) == 0 && !last {
		return nil, nil
	}
	st := states.Of(x)
	out, err := st.enc.Encode(chunk, st.stream == nil || !st.stream.More(), last)
	st.p.count(st.coding, len(chunk), len(out))
	return out, err
}

func (p *compressor) count(c coding.Coding, in, out int) {
	p.in[c].Add(int64(in))
	p.out[c].Add(int64(out))
}

// whole returns a body that is held in a coding; nil where it is not worth it.
// A stored one is coded for the first client that wants it so.
func (p *compressor) whole(x *exchange.Exchange, c coding.Coding, body []byte) ([]byte, error) {
	stored := x.Answer == exchange.Stored && x.Reply != nil && len(x.Reply.Body) == len(body) && unsafe.SliceData(x.Reply.Body) == unsafe.SliceData(body)
	if stored {
		if form := x.Reply.Coded[c].Load(); form != nil {
			if !form.Used.Load() {
				form.Used.Store(true)
			}
			return form.Body, nil
		}
	}
	st := states.Of(x)
	if st.enc == nil {
		st.enc = coding.NewEncoder(c)
	}
	coded, err := st.enc.Encode(body, false, true)
	if err != nil {
		return nil, err
	}
	p.count(c, len(body), len(coded))
	if stored {
		p.forms.keep(x.Reply, c, coded)
	}
	return coded, nil
}

// describe makes the head that of the coded response.
func (p *compressor) describe(x *exchange.Exchange, c coding.Coding) {
	h := &x.Response.Header
	for _, name := range invalid {
		exchange.DelResponse(h, name)
	}
	h.AddBytesV(contentEncoding, codingNames[c])
	if tag := x.ResponseHeader(eTag); isStrong(tag) {
		suffixed := x.Keep(append(append(x.Scratch(), tag[:len(tag)-1]...), suffixes[c]...))
		exchange.DelResponse(h, eTag)
		h.AddBytesV(eTag, suffixed)
	}
}

const (
	contentEncoding = "Content-Encoding"
	eTag            = "ETag"
)

// invalid are the fields that are not true of the coded response.
var invalid = [...]string{contentEncoding, "Accept-Ranges", "Content-MD5", "Digest", "Content-Digest", "Repr-Digest"}

var (
	codingNames = [coding.Count][]byte{coding.Zstd: []byte("zstd"), coding.Brotli: []byte("br"), coding.Gzip: []byte("gzip")}
	// suffixes end an entity tag. A tag of a backend's own hardly ends so.
	suffixes = [coding.Count][]byte{coding.Zstd: []byte(`~zstd"`), coding.Brotli: []byte(`~br"`), coding.Gzip: []byte(`~gzip"`)}
)

// length is how long the body is as far as is known, else -1.
func length(x *exchange.Exchange) int {
	if !x.Response.IsBodyStream() && len(x.Response.Body()) > 0 {
		return len(x.Response.Body())
	}
	if x.Response.IsBodyStream() || x.Request.Header.IsHead() {
		if n := x.Response.Header.ContentLength(); n > 0 {
			return n
		}
		return -1
	}
	return 0
}

// vary says that the answer depends on Accept-Encoding.
func vary(x *exchange.Exchange) {
	for name, list := range x.Response.Header.All() {
		if len(name) == len("vary") && exchange.EqualFold(name, "vary") && (lists(list, "accept-encoding") || lists(list, "*")) {
			return
		}
	}
	x.ToClient.Add("Vary", acceptEncoding)
}

var acceptEncoding = []byte("Accept-Encoding")

// compressible reports whether the answer is of a kind that is compressed, whatever the client accepts.
func (p *compressor) compressible(x *exchange.Exchange) bool {
	var contentType []byte
	for name, value := range x.Response.Header.All() {
		switch len(name) {
		case len("content-type"):
			if exchange.EqualFold(name, "content-type") {
				contentType = value
			}
		case len("content-range"): // and of cache-control
			if exchange.EqualFold(name, "content-range") || exchange.EqualFold(name, "cache-control") && lists(value, "no-transform") {
				return false
			}
		case len(contentEncoding):
			if exchange.EqualFold(name, contentEncoding) && !exchange.EqualFold(value, "identity") {
				return false
			}
		}
	}
	return matches(p.types, contentType)
}

// transformRefused reports whether the request asks for what the backend gives (RFC 9111, section 5.2.1.6).
func transformRefused(x *exchange.Exchange) bool {
	for i := range x.Fields {
		f := &x.Fields[i]
		if len(f.Name) == len("cache-control") && exchange.EqualFold(f.Name, "cache-control") && lists(f.Value, "no-transform") {
			return true
		}
	}
	return false
}

// lists reports whether a comma-separated list has a member.
func lists(list []byte, member string) bool {
	for len(list) > 0 {
		var item []byte
		item, list, _ = bytes.Cut(list, comma)
		if item = exchange.TrimOWS(item); len(item) == len(member) && exchange.EqualFold(item, member) {
			return true
		}
	}
	return false
}
