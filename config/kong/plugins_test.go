package kong_test

import (
	"encoding/binary"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/wrapperspb"

	"github.com/golang-jwt/jwt/v5"

	"sluice/config"
	"sluice/config/kong"
	"sluice/gateway"
	"sluice/gateway/registry"
)

// The plugin jwt writes its errors in JSON whatever Accept says, and names the error in the challenge.
func TestTokensAreRefusedAsKongDoes(t *testing.T) {
	text := oneService + "plugins: [{name: jwt, config: {claims_to_verify: [exp]}}]\nconsumers:\n- username: alice\n  jwt_secrets: [{key: alices-issuer, secret: alices-secret-of-at-least-32-bytes}]\n"
	token := func(secret string, claims jwt.MapClaims) string {
		s, err := jwt.NewWithClaims(jwt.SigningMethodHS256, claims).SignedString([]byte(secret))
		if err != nil {
			t.Fatal(err)
		}
		return "Bearer " + s
	}
	now := time.Now()
	good, later := "alices-secret-of-at-least-32-bytes", now.Add(time.Hour).Unix()
	f := func(realm, authorization, challenge, body string) {
		t.Helper()
		g := ours(t, strings.Replace(text, "{claims", realm+"claims", 1))
		headers := []string{"Accept", "text/html"}
		if authorization != "" {
			headers = append(headers, "Authorization", authorization)
		}
		a := send(t, g, "GET", "/users", "", headers...)
		said := a.body
		if strings.Contains(said, "request_id") {
			said = a.message(t)
		}
		if a.status != 401 || said != body || a.header.Get("WWW-Authenticate") != challenge || a.header.Get("Content-Type") != "application/json; charset=utf-8" {
			t.Errorf("%s: %d %v %s", authorization, a.status, a.header, a.body)
		}
	}
	const invalid = `Bearer error="invalid_token"`
	f("{", "", "Bearer", "Unauthorized")
	f("{realm: staff, ", "", `Bearer realm="staff"`, "Unauthorized")
	f("{realm: staff, ", "Bearer x.y.z", `Bearer realm="staff" error="invalid_token"`, "Bad token; invalid JSON")
	f("{", token(good, jwt.MapClaims{"iss": "alices-issuer", "exp": now.Add(-time.Hour).Unix()}), invalid, `{"exp":"token expired"}`)
	f("{", token(good, jwt.MapClaims{"iss": "nobody", "exp": later}), invalid, "No credentials found for given 'iss'")
	f("{", token(good, jwt.MapClaims{"exp": later}), invalid, "No mandatory 'iss' in claims")
	f("{", token("another secret of thirty-two bytes", jwt.MapClaims{"iss": "alices-issuer", "exp": later}), invalid, "Invalid signature")
	f("{", token(good, jwt.MapClaims{"iss": "alices-issuer"}), invalid, `{"exp":"must be a number"}`)
}

func TestAllCredentialsAreWantedWithoutAnonymous(t *testing.T) {
	g := ours(t, readFile(t, "testdata/several-authentications.kong.yml"))
	const alice, wrong = "Basic YWxpY2U6YWxpY2VzLXBhc3N3b3Jk", "Basic YWxpY2U6d3Jvbmc="
	f := func(target string, status int, message, challenge string, headers ...string) {
		t.Helper()
		a := send(t, g, "GET", target, "", headers...)
		if a.status != status || !strings.Contains(a.body, message) || a.header.Get("WWW-Authenticate") != challenge {
			t.Errorf("%s %v: %d %v %s", target, headers, a.status, a.header, a.body)
		}
	}
	f("/users", 401, "No API key found in request", "Key")
	f("/users", 401, "No API key found in request", "Key", "Authorization", alice)
	f("/users", 401, "Unauthorized", `Basic realm="service"`, "Apikey", "alices-key")
	f("/users", 401, "Unauthorized", `Basic realm="service"`, "Apikey", "alices-key", "Authorization", wrong)
	f("/users", 200, "", "", "Apikey", "alices-key", "Authorization", alice)
	// Where one of two has anonymous it decides nothing.
	f("/b", 200, "", "", "Authorization", alice)
	f("/b", 401, "Unauthorized", `Basic realm="service"`, "Apikey", "alices-key")
	// Where both have it, any one is enough, and who has none is the consumer whose requests are terminated.
	f("/admin", 200, "", "", "Authorization", alice)
	f("/admin", 200, "", "", "Apikey", "alices-key")
	f("/admin", 401, `{"message":"say who you are"}`, "")
	f("/admin", 401, `{"message":"say who you are"}`, "", "Apikey", "wrong")
}

func TestPluginsOfAConsumerAtAPlace(t *testing.T) {
	g := ours(t, readFile(t, "testdata/consumer-and-route.kong.yml"))
	f := func(target, key, limit, gold string) {
		t.Helper()
		a := send(t, g, "GET", target, "", "Apikey", key)
		if a.status != 200 || a.header.Get("X-RateLimit-Limit-Minute") != limit || a.header.Get("X-Gold") != gold {
			t.Errorf("%s of %s: %d %v", target, key, a.status, a.header)
		}
	}
	f("/users", "alices-key", "1", "yes") // at the route
	f("/admin", "alices-key", "2", "")    // at the service
	f("/r", "alices-key", "4", "")        // at the route, nested in it
	f("/users", "bobs-key", "50", "yes")  // of the group at the route
	f("/admin", "bobs-key", "", "")
	if a := send(t, g, "GET", "/users", "", "Apikey", "alices-key"); a.status != 429 {
		t.Errorf("%d", a.status)
	}
	f("/admin", "alices-key", "2", "") // counted by itself
}

func TestBodiesAreChanged(t *testing.T) {
	g := ours(t, readFile(t, "testdata/request-transformer-body.kong.yml"))
	a := send(t, g, "POST", "/users", `{"password":"x","a.b":1,"old":2,"kind":"k"}`, "Content-Type", "application/json", "User-Agent", "test")
	if want := `{"new":2,"kind":"fixed","agent":"test","price":"$5 {x}","via":"gateway"}`; a.backend.Body != want {
		t.Errorf("the service got %s, want %s", a.backend.Body, want)
	}
	if a := send(t, g, "POST", "/users", "password=x", "Content-Type", "application/x-www-form-urlencoded"); a.backend.Body != "password=x" {
		t.Errorf("the service got %s", a.backend.Body)
	}
	g = ours(t, readFile(t, "testdata/request-transformer-dots.kong.yml"))
	if a := send(t, g, "POST", "/users", `{"user":{"password":"x","name":"y"}}`, "Content-Type", "application/json"); a.backend.Body != `{"user":{"name":"y"}}` {
		t.Errorf("the service got %s", a.backend.Body)
	}
	var got map[string]any
	a = send(t, ours(t, readFile(t, "testdata/response-transformer-json.kong.yml")), "GET", "/users", "")
	if err := json.Unmarshal([]byte(a.body), &got); err != nil {
		t.Fatal(err, a.body)
	}
	if got["headers"] != nil || got["target"] != nil || got["path"] != "/" || got["host"] != "hidden" || got["number"] != 5.0 || got["yes"] != true || got["text"] != "$(x)" || a.header.Get("X-Secret") != "" {
		t.Errorf("%v %v", got, a.header)
	}
}

func TestResponseRateLimitingSaysWhatIsUsedUp(t *testing.T) {
	limited := func(more string) *gateway.Gateway {
		return ours(t, strings.Replace(oneService, "users.test:8080", "cost.test:8080", 1)+"plugins:\n- name: response-ratelimiting\n  config: {limits: {videos: {minute: 1}}"+more+"}\n")
	}
	g := limited("")
	send(t, g, "GET", "/users", "")
	if a := send(t, g, "GET", "/users", ""); a.status != 429 || a.body != "" {
		t.Errorf("%d %q", a.status, a.body)
	}
	g = limited(", block_on_first_violation: true")
	send(t, g, "GET", "/users", "")
	if a := send(t, g, "GET", "/users", ""); a.status != 429 || a.message(t) != "API rate limit exceeded for 'videos'" {
		t.Errorf("%d %q", a.status, a.body)
	}
}

// Each plugin that logs gets its line, at whatever place it stands.
func TestPluginsThatLog(t *testing.T) {
	lines := make(chan string, 10)
	collector := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		lines <- r.Method + " " + r.Header.Get("X-Key") + " " + r.Header.Get("Content-Type") + " " + string(body)
	}))
	t.Cleanup(collector.Close)
	udp, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { udp.Close() })
	_, port, _ := net.SplitHostPort(udp.LocalAddr().String())
	file := filepath.Join(t.TempDir(), "access.log")
	g := ours(t, oneService+`    plugins:
    - name: http-log
      config: {http_endpoint: "`+collector.URL+`", headers: {X-Key: secret}}
  plugins:
  - name: udp-log
    config: {host: 127.0.0.1, port: `+port+`}
plugins:
- name: file-log
  config: {path: `+file+`}
`)
	send(t, g, "GET", "/users/7?token=secret", "")
	line := <-lines
	if !strings.HasPrefix(line, `POST secret application/json {"time":`) || !strings.Contains(line, `"path":"/users/7"`) || !strings.HasSuffix(line, "}") {
		t.Error(line)
	}
	object := line[strings.Index(line, "{"):]
	b := make([]byte, 1<<16)
	if err := udp.SetReadDeadline(time.Now().Add(10 * time.Second)); err != nil {
		t.Fatal(err)
	}
	n, _, err := udp.ReadFrom(b)
	if err != nil || string(b[:n]) != object {
		t.Errorf("%s, %v; want %s", b[:n], err, object)
	}
	eventually(t, "the line in the file", func() bool {
		text, _ := os.ReadFile(file)
		return string(text) == object+"\n"
	})
}

func eventually(t *testing.T, what string, is func() bool) {
	t.Helper()
	for end := time.Now().Add(10 * time.Second); !is(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("not in time: " + what)
		}
	}
}

func TestSpansGoWhereOpenTelemetrySays(t *testing.T) {
	got := make(chan string, 10)
	collector := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		got <- r.URL.Path + " " + r.Header.Get("X-Auth")
		w.Header().Set("Content-Type", "application/x-protobuf")
	}))
	t.Cleanup(collector.Close)
	g := ours(t, oneService+"plugins:\n- name: opentelemetry\n  config: {traces_endpoint: \""+collector.URL+"/in\", headers: {X-Auth: secret}, sampling_rate: 1}\n")
	if a := send(t, g, "GET", "/users", ""); a.backend.Headers.Get("Traceparent") == "" {
		t.Errorf("%v", a.backend.Headers)
	}
	if s := <-got; s != "/in secret" {
		t.Error(s)
	}
	g = ours(t, oneService+"plugins: [{name: zipkin}]\n")
	h := send(t, g, "GET", "/users", "", "B3", "0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-1").backend.Headers
	if h.Get("X-B3-Traceid") != "0af7651916cd43dd8448eb211c80319c" || h.Get("X-B3-Sampled") != "1" {
		t.Errorf("%v", h)
	}
}

func TestSpansGoWhereZipkinSays(t *testing.T) {
	type span struct {
		TraceID, Kind, Name string
		LocalEndpoint       struct{ ServiceName string }
		Tags                map[string]string
	}
	got := make(chan []span, 10)
	collector := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var spans []span
		if err := json.NewDecoder(r.Body).Decode(&spans); err != nil || r.URL.Path != "/api/v2/spans" {
			t.Errorf("%s: %v", r.URL, err)
		}
		got <- spans
		w.WriteHeader(http.StatusAccepted)
	}))
	t.Cleanup(collector.Close)
	g := ours(t, oneService+"plugins:\n- name: zipkin\n  config: {http_endpoint: \""+collector.URL+"/api/v2/spans\", sample_ratio: 1, static_tags: [{name: region, value: eu}], http_response_header_for_traceid: X-Trace}\n")
	a := send(t, g, "GET", "/users/7", "", "Zipkin-Tags", "plan=gold")
	spans := <-got
	if len(spans) != 2 {
		t.Fatalf("%+v", spans)
	}
	server, client := spans[0], spans[1]
	if server.Kind != "SERVER" || server.Name != "GET" || server.LocalEndpoint.ServiceName != "kong" || client.Kind != "CLIENT" ||
		server.TraceID != a.header.Get("X-Trace") || server.TraceID != a.backend.Headers.Get("X-B3-Traceid") {
		t.Errorf("%+v, the client got %v, the backend %v", spans, a.header, a.backend.Headers)
	}
	for name, want := range map[string]string{"http.method": "GET", "http.path": "/users/7", "http.status_code": "200", "region": "eu", "plan": "gold"} {
		if server.Tags[name] != want {
			t.Errorf("%s is %q, want %q", name, server.Tags[name], want)
		}
	}
}

// greeter answers every call with a greeting.
func greeter(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	s := grpc.NewServer(grpc.UnknownServiceHandler(func(_ any, stream grpc.ServerStream) error {
		name := &wrapperspb.StringValue{} // a message whose first field is a text
		if err := stream.RecvMsg(name); err != nil {
			return err
		}
		return stream.SendMsg(wrapperspb.String("hello " + name.Value))
	}))
	done := make(chan struct{})
	go func() { defer close(done); _ = s.Serve(l) }()
	t.Cleanup(func() { s.Stop(); <-done })
	return l.Addr().String()
}

func TestGRPC(t *testing.T) {
	c, err := config.Parse("kong.yml", []byte(readFile(t, "testdata/grpc.kong.yml")), config.Options{Environ: environ, Listen: "127.0.0.1:0", Kong: kong.Translator(kong.Options{})})
	if err != nil {
		t.Fatal(err)
	}
	g := gateway.New(gateway.Options{Registry: registry.All(), Resolve: map[string]string{"greeter.test:9000": greeter(t)}, DrainTimeout: 5 * time.Second})
	t.Cleanup(func() { g.Shutdown(t.Context()) })
	if err := g.Apply(c); err != nil {
		t.Fatal(err)
	}
	if a := send(t, g, "GET", "/rest/greetings/me", ""); a.status != 200 || strings.ReplaceAll(a.body, " ", "") != `{"the_greeting":"hellome","number":0}` {
		t.Errorf("%d %s", a.status, a.body)
	}
	conn, err := grpc.NewClient(g.Listeners()[0].Address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	got := &wrapperspb.StringValue{}
	if err := conn.Invoke(t.Context(), "/greeter.Greeter/Greet", wrapperspb.String("you"), got); err != nil || got.Value != "hello you" {
		t.Errorf("%v, %v", got, err)
	}
	if err := conn.Invoke(t.Context(), "/greeter.Secure/Greet", wrapperspb.String("you"), got); err == nil {
		t.Error("a route for grpcs takes calls without TLS")
	}
	if a := send(t, g, "POST", "/greeter.Greeter/Greet", "", "Content-Type", "application/grpc"); a.status != 426 && a.header.Get("Grpc-Status") == "" {
		t.Errorf("%d %v %s", a.status, a.header, a.body)
	}
	if a := send(t, g, "GET", "/greeter.Greeter/Greet", ""); a.status != 426 || a.message(t) != "Please use HTTP2 protocol" || a.header.Get("Upgrade") != "HTTP/2" {
		t.Errorf("%d %v %s", a.status, a.header, a.body)
	}
	message, err := proto.Marshal(wrapperspb.String("web"))
	if err != nil {
		t.Fatal(err)
	}
	frame := append(binary.BigEndian.AppendUint32([]byte{0}, uint32(len(message))), message...)
	for _, path := range []string{"/web/greeter.Greeter/Greet", "/greeter.Web/Greet"} {
		a := send(t, g, "POST", path, string(frame), "Content-Type", "application/grpc-web+proto", "Origin", "https://app.test")
		if a.status != 200 || !strings.Contains(a.body, "hello web") || !strings.Contains(a.body, "grpc-status: 0") && !strings.Contains(a.body, "grpc-status:0") || a.header.Get("Access-Control-Allow-Origin") == "" {
			t.Errorf("%s: %d %v %q", path, a.status, a.header, a.body)
		}
	}
}
