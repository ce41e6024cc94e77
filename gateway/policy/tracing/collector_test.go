package tracing

import (
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	coltracepb "go.opentelemetry.io/proto/otlp/collector/trace/v1"
	"google.golang.org/protobuf/proto"

	"sluice/config"
)

// collecting gives a collector of OTLP over HTTP that answers as f does, and what it was sent.
func collecting(t *testing.T, compression string, f func(asked int, w http.ResponseWriter)) (*httpCollector, *[]*http.Request, *[]*coltracepb.ExportTraceServiceRequest) {
	t.Helper()
	var heads []*http.Request
	var bodies []*coltracepb.ExportTraceServiceRequest
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		from := io.Reader(r.Body)
		if r.Header.Get("Content-Encoding") == "gzip" {
			var err error
			if from, err = gzip.NewReader(r.Body); err != nil {
				t.Error(err)
				return
			}
		}
		b, err := io.ReadAll(from)
		read := &coltracepb.ExportTraceServiceRequest{}
		if err = errors.Join(err, proto.Unmarshal(b, read)); err != nil {
			t.Error(err)
		}
		heads, bodies = append(heads, r), append(bodies, read)
		f(len(heads), w)
	}))
	t.Cleanup(s.Close)
	d := &destination{
		OTLP:    OTLP{Protocol: "http", Compression: compression, Timeout: 40 * time.Millisecond, Headers: map[string]config.Secret{"Api-Key": config.NewSecret("k")}},
		address: s.Listener.Addr().String(), path: "/v1/traces", service: "edge",
	}
	c, ok := d.collector().(*httpCollector)
	if !ok {
		t.Fatal("not a collector over HTTP")
	}
	t.Cleanup(func() { _ = c.stop(t.Context()) })
	return c, &heads, &bodies
}

// someSpans are n encoded spans.
func someSpans(n int) []byte {
	var e encoder
	for i := range n {
		e.request(&request{trace: traceID{1, 2}, server: spanID(i + 1), method: "GET"}, nil, &texts{make([]byte, 2*8)})
	}
	return e.spans
}

func TestCollectorOverHTTP(t *testing.T) {
	f := func(compression string) {
		t.Helper()
		c, heads, bodies := collecting(t, compression, func(int, http.ResponseWriter) {})
		for _, n := range []int{1, 3, 1000} { // a connection serves for all
			if err := c.take(t.Context(), someSpans(n)); err != nil {
				t.Fatal(err)
			}
			last := (*bodies)[len(*bodies)-1].ResourceSpans
			if len(last) != 1 || len(last[0].ScopeSpans) != 1 || len(last[0].ScopeSpans[0].Spans) != n {
				t.Fatalf("%q, %d spans: %v", compression, n, last)
			}
			r, s := last[0], last[0].ScopeSpans[0]
			if s.Scope.GetName() != scopeName || s.SchemaUrl != schemaURL || r.SchemaUrl != schemaURL || !strings.Contains(r.Resource.String(), `"edge"`) ||
				len(r.ProtoReflect().GetUnknown())+len(s.ProtoReflect().GetUnknown()) > 0 {
				t.Errorf("%q: %v %v", compression, s.Scope, r.Resource)
			}
		}
		for _, h := range *heads {
			if h.Method != http.MethodPost || h.URL.Path != "/v1/traces" || h.Header.Get("Content-Type") != "application/x-protobuf" ||
				h.Header.Get("Api-Key") != "k" || h.ContentLength <= 0 || h.RemoteAddr != (*heads)[0].RemoteAddr {
				t.Errorf("%q: %v", compression, h)
			}
		}
	}
	f("none")
	f("gzip")
}

// A batch is sent again while its collector may take it yet.
func TestCollectorSaysLater(t *testing.T) {
	f := func(status, asked int, want string) {
		t.Helper()
		c, heads, _ := collecting(t, "none", func(n int, w http.ResponseWriter) {
			if n == 1 {
				w.WriteHeader(status)
				_, _ = io.WriteString(w, "not today")
			}
		})
		err := c.take(t.Context(), someSpans(1))
		if len(*heads) != asked || fmt.Sprint(err) != want {
			t.Errorf("%d: asked %d times, %v", status, len(*heads), err)
		}
	}
	f(200, 1, "<nil>")
	for _, status := range []int{429, 502, 503, 504} {
		f(status, 2, "<nil>")
	}
	f(400, 1, "the collector answered 400 Bad Request: not today")
	f(500, 1, "the collector answered 500 Internal Server Error: not today")
	f(302, 1, "the collector answered 302 Found: not today")

	// What it asks to wait for is waited for, within the time that a batch has.
	c, heads, _ := collecting(t, "none", func(_ int, w http.ResponseWriter) {
		w.Header().Set("Retry-After", "3600")
		w.WriteHeader(http.StatusServiceUnavailable)
	})
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	if err := c.take(ctx, someSpans(1)); err == nil || len(*heads) != 1 {
		t.Errorf("asked %d times: %v", len(*heads), err)
	}
}

func TestCollectorTakesAPart(t *testing.T) {
	part := &coltracepb.ExportTraceServiceResponse{PartialSuccess: &coltracepb.ExportTracePartialSuccess{RejectedSpans: 2, ErrorMessage: "no room"}}
	f := func(contentType, body string, lost int, said string) {
		t.Helper()
		c, _, _ := collecting(t, "none", func(_ int, w http.ResponseWriter) {
			w.Header().Set("Content-Type", contentType)
			_, _ = io.WriteString(w, body)
		})
		err := c.take(t.Context(), someSpans(3))
		switch {
		case err == nil:
			if said != "" {
				t.Errorf("%s %q is taken for all", contentType, body)
			}
		case said == "" || !strings.Contains(err.Error(), said) || rejected(err, 3) != lost:
			t.Errorf("%s %q: %v, %d of 3 lost", contentType, body, err, rejected(err, 3))
		}
	}
	f("application/x-protobuf", "", 0, "")
	f("application/x-protobuf", string(marshal(part)), 2, "no room (2 spans rejected)")
	f("application/json", `{"partialSuccess":{"rejectedSpans":"2","errorMessage":"no room"}}`, 2, "no room (2 spans rejected)")
	f("application/json; charset=utf-8", `{}`, 0, "")
	f("text/plain", "welcome", 0, "")
	f("application/x-protobuf", "nonsense", 0, "the answer can not be read")
	part.PartialSuccess.RejectedSpans = 0
	f("application/x-protobuf", string(marshal(part)), 0, "no room")
	part.PartialSuccess.RejectedSpans = 100
	f("application/x-protobuf", string(marshal(part)), 3, "no room")
}
