package dns

import (
	"strings"
	"testing"

	"sluice/gateway/discovery/discoverytest"
	"sluice/gateway/discovery/dns/dnstest"
)

func start(t *testing.T, s *dnstest.Server, settings string) *discoverytest.Watch {
	t.Helper()
	return discoverytest.Start(t, Definition, `{dns: {servers: ["`+s.Address+`"], search: [svc.test], min_refresh: 20ms, refresh: 50ms, timeout: 500ms, `+settings+`}}`)
}

func TestAddresses(t *testing.T) {
	s := dnstest.Start(t, "users.internal. 60 IN A 10.0.0.1", "users.internal. 60 IN AAAA fd00::1")
	w := start(t, s, "name: users.internal, port: 80")
	w.Want("10.0.0.1:80 as users.internal:80; [fd00::1]:80 as users.internal:80")
	s.Set("users.internal. 60 IN A 10.0.0.1", "users.internal. 60 IN A 10.0.0.2")
	w.Want("10.0.0.1:80 as users.internal:80; 10.0.0.2:80 as users.internal:80")
	s.Set("users.internal. 60 IN CNAME other.internal.", "other.internal. 60 IN A 10.0.0.3")
	w.Want("10.0.0.3:80 as users.internal:80")
}

func TestOneFamily(t *testing.T) {
	s := dnstest.Start(t, "users.internal. 60 IN A 10.0.0.1", "users.internal. 60 IN AAAA fd00::1")
	start(t, s, "name: users.internal, port: 80, record: aaaa").Want("[fd00::1]:80 as users.internal:80")
	for _, q := range s.Questions() {
		if strings.Contains(q, " A ") {
			t.Errorf("asked %s", q)
		}
	}
}

func TestServices(t *testing.T) {
	s := dnstest.Start(t,
		"_http._tcp.users.internal. 60 IN SRV 10 5 8080 a.internal.",
		"_http._tcp.users.internal. 60 IN SRV 10 0 8081 b.internal.",
		"_http._tcp.users.internal. 60 IN SRV 20 9 8082 spare.internal.",
		"a.internal. 60 IN A 10.0.0.1", "a.internal. 60 IN A 10.0.0.2", "b.internal. 60 IN A 10.0.0.3")
	w := start(t, s, "name: _http._tcp.users.internal, record: srv")
	w.Want("10.0.0.1:8080 weight 5 as a.internal:8080; 10.0.0.2:8080 weight 5 as a.internal:8080; 10.0.0.3:8081 as b.internal:8081")
	// What comes with the answer is not asked for.
	s.Set("_http._tcp.users.internal. 60 IN SRV 10 5 8080 far.internal.")
	s.Bring("far.internal. 60 IN A 10.0.9.9")
	w.Want("10.0.9.9:8080 weight 5 as far.internal:8080")
	for _, q := range s.Questions() {
		if strings.HasPrefix(q, "far.internal.") {
			t.Errorf("asked %s", q)
		}
	}
	s.Set("_http._tcp.users.internal. 60 IN SRV 0 0 0 .")
	w.Want("")
}

func TestSearch(t *testing.T) {
	s := dnstest.Start(t, "users.svc.test. 60 IN A 10.0.0.1", "a.b. 60 IN A 10.0.0.2")
	start(t, s, "name: users, port: 1").Want("10.0.0.1:1 as users:1")
	start(t, s, "name: a.b, port: 1").Want("10.0.0.2:1 as a.b:1")
	// With more dots than the name has, the domains come first; the name itself is last.
	w := start(t, s, "name: a.b, port: 1, ndots: 5")
	w.Want("10.0.0.2:1 as a.b:1")
	if got := strings.Join(s.Questions(), " "); !strings.Contains(got, "a.b.svc.test. A") {
		t.Errorf("asked %s", got)
	}
	start(t, s, "name: users., port: 1").Want("")
}

func TestTimeToLive(t *testing.T) {
	s := dnstest.Start(t, "users.internal. 3600 IN A 10.0.0.1")
	w := discoverytest.Start(t, Definition, `{dns: {servers: ["`+s.Address+`"], name: users.internal, port: 1, refresh: 1h, min_refresh: 10ms}}`)
	w.Want("10.0.0.1:1 as users.internal:1")
	asked := len(s.Questions())
	// A second server shows that time passes: with no time to live, and a shortest pause, it is asked again and again.
	other := dnstest.Start(t, "users.internal. 0 IN A 10.0.0.1")
	o := discoverytest.Start(t, Definition, `{dns: {servers: ["`+other.Address+`"], name: users.internal, port: 1, refresh: 1h, min_refresh: 10ms}}`)
	o.Until("many questions", func() bool { return len(other.Questions()) > 20 })
	if got := len(s.Questions()); got != asked {
		t.Errorf("asked again %d times within the hour", got-asked)
	}
}

func TestTruncatedAnswer(t *testing.T) {
	s := dnstest.Start(t, "users.internal. 60 IN A 10.0.0.1")
	s.Truncate()
	start(t, s, "name: users.internal, port: 1").Want("10.0.0.1:1 as users.internal:1")
	if got := strings.Join(s.Questions(), " "); !strings.Contains(got, "A udp") || !strings.Contains(got, "A tcp") {
		t.Errorf("asked %s", got)
	}
}

func TestFailure(t *testing.T) {
	s := dnstest.Start(t, "users.internal. 60 IN A 10.0.0.1")
	w := start(t, s, "name: users.internal, port: 1")
	w.Want("10.0.0.1:1 as users.internal:1")
	s.Fail(2)
	w.Failing("SERVFAIL")
	s.Fail(0)
	s.Set("users.internal. 60 IN A 10.0.0.2")
	w.Want("10.0.0.2:1 as users.internal:1")
	s.Close()
	w.Failing("does not answer for users.internal.")
	s.Set("users.internal. 60 IN A 10.0.0.3")
	s.Restart()
	w.Want("10.0.0.3:1 as users.internal:1")
}

// The second server is asked when the first can not tell.
func TestSecondServer(t *testing.T) {
	broken, good := dnstest.Start(t), dnstest.Start(t, "users.internal. 60 IN A 10.0.0.1")
	broken.Fail(5)
	w := discoverytest.Start(t, Definition, `{dns: {servers: ["`+broken.Address+`", "`+good.Address+`"], name: users.internal., port: 1}}`)
	w.Want("10.0.0.1:1 as users.internal:1")
}
