package upstream

import (
	"encoding/base64"
	"io"
	"net/http"
	"slices"
	"strings"

	"sluice/gateway/grpcwire"
)

// gRPC-Web is gRPC for those who know neither HTTP/2 nor trailers: the messages
// are the same, the trailers are one more frame of the body, and in the text
// form all of it is in base64. Services of gRPC get it translated.

// translateRequest makes a request of gRPC-Web one of gRPC.
func (st *stream) translateRequest(req *http.Request) {
	if st.rpc != grpcwire.Web && st.rpc != grpcwire.WebText {
		return
	}
	contentType := []byte(req.Header.Get("Content-Type"))
	req.Header["Content-Type"] = []string{"application/grpc" + string(grpcwire.Format(contentType))}
	delete(req.Header, "X-Grpc-Web")
	delete(req.Header, "Accept")
	if agent := req.Header["X-User-Agent"]; len(agent) > 0 && len(req.Header["User-Agent"]) == 0 {
		req.Header["User-Agent"] = agent
	}
}

// translateResponse makes the head of an answer one of gRPC-Web.
func (st *stream) translateResponse() {
	if st.rpc != grpcwire.Web && st.rpc != grpcwire.WebText {
		return
	}
	contentType := st.res.Header.Get("Content-Type")
	if grpcwire.KindOf([]byte(contentType)) == grpcwire.Native {
		name := "application/grpc-web"
		if st.rpc == grpcwire.WebText {
			name = "application/grpc-web-text"
		}
		format := string(grpcwire.Format([]byte(contentType)))
		if format == "" {
			format = "+proto"
		}
		st.res.Header["Content-Type"] = []string{name + format}
	}
	delete(st.res.Header, "Content-Length")
}

// keepTrailers makes the frame of trailers.
func (st *stream) keepTrailers(trailer http.Header) {
	var b []byte
	names := make([]string, 0, len(trailer))
	for name := range trailer {
		names = append(names, name)
	}
	slices.Sort(names)
	for _, name := range names {
		for _, v := range trailer[name] {
			b = append(append(append(append(b, strings.ToLower(name)...), ": "...), v...), "\r\n"...)
		}
	}
	st.tail = grpcwire.AppendFrame(nil, grpcwire.Trailer, b)
}

// translateBody makes a piece of an answer one of gRPC-Web.
func (st *stream) translateBody(chunk []byte, last bool) []byte {
	switch st.rpc {
	case grpcwire.Web, grpcwire.WebText:
	default:
		return chunk
	}
	if last && len(st.tail) > 0 {
		chunk = append(slices.Clip(chunk), st.tail...)
		st.tail = nil
	}
	if st.rpc == grpcwire.WebText && len(chunk) > 0 {
		// Each piece is a text of its own with its padding, as clients expect of what comes in pieces.
		chunk = base64.StdEncoding.AppendEncode(nil, chunk)
	}
	return chunk
}

// textReader decodes a body in base64 that may be texts one behind the other,
// each with its own padding.
type textReader struct {
	from    io.Reader
	quad    [4]byte
	n       int
	decoded []byte
	buf     [4 << 10]byte
	err     error
}

// Read implements io.Reader.
func (r *textReader) Read(p []byte) (int, error) {
	for len(r.decoded) == 0 {
		if r.err != nil {
			return 0, r.err
		}
		n, err := r.from.Read(r.buf[:])
		for _, c := range r.buf[:n] {
			if c == '\r' || c == '\n' {
				continue
			}
			r.quad[r.n] = c
			if r.n++; r.n < len(r.quad) {
				continue
			}
			r.n = 0
			if r.decoded, r.err = base64.StdEncoding.AppendDecode(r.decoded, r.quad[:]); r.err != nil {
				r.err = errBodyCut
				break
			}
		}
		if r.err == nil {
			if r.err = err; err == io.EOF && r.n > 0 {
				r.err = errBodyCut
			}
		}
	}
	n := copy(p, r.decoded)
	if r.decoded = r.decoded[n:]; len(r.decoded) == 0 {
		r.decoded = nil
	}
	return n, nil
}
