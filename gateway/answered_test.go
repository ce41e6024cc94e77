package gateway_test

import (
	"strings"
	"testing"
	"time"

	"sluice/gateway"
)

// What the reader of heads refuses is counted and logged with the status that
// the client got, and without a method or path that nobody read.
func TestRefusedHeadsAreCountedAsAnswered(t *testing.T) {
	g := serve(t, gateway.Options{}, `routes: {r: {respond: {status: 200}}}`)
	for request, status := range map[string]string{
		"POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab": "400",
		"GET / HTTP/1.1\r\nHost: a\r\nX: " + strings.Repeat("x", 40<<10) + "\r\n\r\n":    "431",
	} {
		c := g.client()
		c.send(request)
		if head, _ := c.response(); !strings.HasPrefix(head, "HTTP/1.1 "+status) {
			t.Errorf("%.40q: %s", request, head)
		}
		c.close()
		series := `sluice_requests_total{route="-",service="-",method="other",code="` + status + `"}`
		for end := time.Now().Add(patience); g.metric(series) != 1; time.Sleep(time.Millisecond) {
			if time.Now().After(end) {
				t.Errorf("%s is %v", series, g.metric(series))
				break
			}
		}
	}
}

// A block of settings for the guard does not make it stand on routes that
// authenticate nobody.
func TestAuthGuardLeavesOpenRoutesAlone(t *testing.T) {
	g := serve(t, gateway.Options{}, `
policies: {auth_guard: {failures: 2, per: 1h}}
routes:
  shut: {match: {paths: [/shut]}, respond: {status: 200}, policies: {jwt: {algorithms: [HS256], secret: 0123456789abcdef0123456789abcdef}}}
  open: {match: {paths: [/open]}, respond: {status: 200}}
`)
	f := func(path, status string) {
		t.Helper()
		c := g.client()
		defer c.close()
		c.send("GET " + path + " HTTP/1.1\r\nHost: a\r\nAuthorization: Bearer a.b.c\r\n\r\n")
		if head, _ := c.response(); !strings.HasPrefix(head, "HTTP/1.1 "+status) {
			t.Errorf("%s: %s", path, head)
		}
	}
	f("/shut", "401")
	f("/shut", "401")
	f("/shut", "429")
	f("/open", "200")
}
