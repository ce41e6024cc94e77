package delivery

import (
	"context"
	"encoding/hex"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"

	collogspb "go.opentelemetry.io/proto/otlp/collector/logs/v1"
	commonpb "go.opentelemetry.io/proto/otlp/common/v1"
	logspb "go.opentelemetry.io/proto/otlp/logs/v1"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/proto"
)

// collector is a collector of OpenTelemetry that keeps the records.
type collector struct {
	collogspb.UnimplementedLogsServiceServer
	mu       sync.Mutex
	requests []*collogspb.ExportLogsServiceRequest
	rejects  int64
}

func (c *collector) Export(_ context.Context, r *collogspb.ExportLogsServiceRequest) (*collogspb.ExportLogsServiceResponse, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.requests = append(c.requests, r)
	answer := &collogspb.ExportLogsServiceResponse{}
	if c.rejects > 0 {
		answer.PartialSuccess = &collogspb.ExportLogsPartialSuccess{RejectedLogRecords: c.rejects, ErrorMessage: "too many"}
	}
	return answer, nil
}

// ServeHTTP is the same over HTTP.
func (c *collector) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	request := &collogspb.ExportLogsServiceRequest{}
	if r.URL.Path != "/v1/logs" || r.Header.Get("X-Key") != "secret" || proto.Unmarshal(body, request) != nil {
		w.WriteHeader(http.StatusBadRequest)
		return
	}
	answer, _ := c.Export(r.Context(), request)
	encoded, _ := proto.Marshal(answer)
	w.Header().Set("Content-Type", "application/x-protobuf")
	_, _ = w.Write(encoded)
}

func (c *collector) records() (all []*logspb.LogRecord) {
	for _, r := range c.requests {
		for _, of := range r.ResourceLogs {
			for _, scope := range of.ScopeLogs {
				all = append(all, scope.LogRecords...)
			}
		}
	}
	return all
}

func overGRPC(t *testing.T, c *collector) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer()
	collogspb.RegisterLogsServiceServer(s, c)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = s.Serve(l)
	}()
	t.Cleanup(func() { s.Stop(); <-done })
	return l.Addr().String()
}

func TestOTLP(t *testing.T) {
	f := func(c *collector, text string) {
		t.Helper()
		target, err := settings[OTLP](t, text).Target()
		send(t, open(t, target, err), stamped(t, "json", 200, 404, 503), 0, "")
		records := c.records()
		if len(records) != 3 || len(c.requests) != 2 {
			t.Fatalf("%d records in %d requests", len(records), len(c.requests))
		}
		for i, want := range []struct {
			severity logspb.SeverityNumber
			body     string
		}{
			{logspb.SeverityNumber_SEVERITY_NUMBER_INFO, "GET /users 200"}, {logspb.SeverityNumber_SEVERITY_NUMBER_WARN, "GET /users 404"},
			{logspb.SeverityNumber_SEVERITY_NUMBER_ERROR, "GET /users 503"},
		} {
			r := records[i]
			if r.SeverityNumber != want.severity || r.Body.GetStringValue() != want.body || r.TimeUnixNano != 1772600767089000000 || hex.EncodeToString(r.TraceId) != "0af7651916cd43dd8448eb211c80319c" {
				t.Errorf("%v", r)
			}
		}
		attributes := valuesOf(records[2].Attributes)
		if attributes["status"].GetIntValue() != 503 || attributes["duration_ms"].GetDoubleValue() != 1.5 || attributes["route"].GetStringValue() != "users" || attributes["host"].GetStringValue() != "[redacted]" ||
			attributes["time"] != nil || attributes["trace_id"] != nil || attributes["upstream_ms"] != nil {
			t.Errorf("%v", attributes)
		}
		of := valuesOf(c.requests[0].ResourceLogs[0].Resource.Attributes)
		if of["service.name"].GetStringValue() != "sluice" || of["stage"].GetStringValue() != "test" {
			t.Errorf("%v", of)
		}
	}
	c := &collector{}
	f(c, "{endpoint: '"+overGRPC(t, c)+"', batch: 2, resource: {stage: test}}")
	c = &collector{}
	s := httptest.NewServer(c)
	t.Cleanup(s.Close)
	f(c, "{endpoint: '"+s.URL+"', protocol: http, batch: 2, compression: none, headers: {X-Key: secret}, resource: {stage: test}}")
}

func valuesOf(all []*commonpb.KeyValue) map[string]*commonpb.AnyValue {
	values := map[string]*commonpb.AnyValue{}
	for _, a := range all {
		values[a.Key] = a.Value
	}
	return values
}

func TestOTLPLosses(t *testing.T) {
	c := &collector{rejects: 1}
	target, err := settings[OTLP](t, "{endpoint: '"+overGRPC(t, c)+"'}").Target()
	send(t, open(t, target, err), stamped(t, "json", 200, 200, 200), 1, "too many")
	// Nobody there: all are lost once the timeout is over.
	target, err = settings[OTLP](t, "{endpoint: '127.0.0.1:1', timeout: 200ms, batch: 1}").Target()
	send(t, open(t, target, err), stamped(t, "json", 200, 200, 200), 3, " ")
}

// A collector that repeats what it was sent, at length, brings neither secrets nor pages into the log.
func TestOTLPRefusalsAreShort(t *testing.T) {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.WriteHeader(http.StatusBadRequest)
		_, _ = io.WriteString(w, "refused: "+r.Header.Get("Authorization")+strings.Repeat(" page", 100_000))
	}))
	t.Cleanup(s.Close)
	target, err := settings[OTLP](t, "{endpoint: '"+s.URL+"', protocol: http, headers: {Authorization: Bearer s3cr3t-token}}").Target()
	lost, err := open(t, target, err).Lines([]byte(stamped(t, "json", 200)))
	if lost != 1 || err == nil || !strings.Contains(err.Error(), "refused: ***") || strings.Contains(err.Error(), "s3cr3t") || len(err.Error()) > 500 {
		t.Errorf("%d lost, %.600v", lost, err)
	}
}
