package consul

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"sluice/gateway/discovery/consul/consultest"
	"sluice/gateway/discovery/discoverytest"
)

func registered(n int, status string) consultest.Instance {
	return consultest.Instance{ID: fmt.Sprint(n), Address: fmt.Sprintf("10.0.0.%d", n), Node: "10.1.0.1", Port: 80, Status: status, Tags: []string{"v1"}}
}

func start(t *testing.T, a *consultest.Agent, settings string) *discoverytest.Watch {
	t.Helper()
	return discoverytest.Start(t, Definition, fmt.Sprintf("{consul: {address: %q, service: users, %s}}", a.URL, settings))
}

func TestBlockingQueries(t *testing.T) {
	a := consultest.Start(t, "users", "", registered(1, "passing"), registered(2, "warning"), registered(3, "critical"))
	w := start(t, a, "wait: 10m")
	w.Want("10.0.0.1:80 in z1")
	w.Until("a question that waits", func() bool { return a.Blocking() == 1 })
	a.Set(registered(1, "passing"), registered(2, "passing"))
	w.Want("10.0.0.1:80 in z1; 10.0.0.2:80 in z1")
	if q := a.Queries(); !strings.Contains(q[len(q)-1], "index=1") || !strings.Contains(q[0], "passing=1") || !strings.Contains(q[0], "stale") {
		t.Errorf("asked %v", q)
	}
	// The node's address stands for a service without one.
	a.Set(consultest.Instance{ID: "n", Node: "10.1.0.7", Port: 81, Status: "passing", Passing: 4})
	w.Want("10.1.0.7:81 weight 4 in z1")
	// An index that went back is begun anew, and not waited for.
	w.Until("a question that waits", func() bool { return a.Blocking() == 1 })
	a.Reset(registered(9, "passing"))
	w.Want("10.0.0.9:80 in z1")
	a.Set(registered(8, "passing"))
	w.Want("10.0.0.8:80 in z1")
}

func TestWarning(t *testing.T) {
	in := registered(2, "warning")
	in.Warns, in.Passing = 2, 10
	a := consultest.Start(t, "users", "", registered(1, "critical"), in)
	start(t, a, "warning: true").Want("10.0.0.2:80 weight 2 in z1")
}

func TestTagsAndToken(t *testing.T) {
	blue := registered(2, "passing")
	blue.Tags = []string{"v1", "blue"}
	a := consultest.Start(t, "users", "s3cret", registered(1, "passing"), blue)
	w := start(t, a, "tags: [v1, blue], token: s3cret, datacenter: dc2")
	w.Want("10.0.0.2:80 in z1")
	if q := a.Queries()[0]; !strings.Contains(q, "dc=dc2") {
		t.Errorf("asked %s", q)
	}
	denied := start(t, a, "token: wr0ng")
	denied.Failing("403 Forbidden: Permission denied")
	if text := fmt.Sprintf("%+v", denied.Status()); strings.Contains(text, "wr0ng") {
		t.Errorf("a secret shows: %s", text)
	}
}

// A busy index is not followed faster than the client's pace.
func TestPace(t *testing.T) {
	const pace = 100 * time.Millisecond
	a := consultest.Start(t, "users", "", registered(1, "passing"))
	w := start(t, a, "wait: 1m")
	w.Want("10.0.0.1:80 in z1")
	began := time.Now()
	for time.Since(began) < 500*time.Millisecond {
		a.Touch()
		time.Sleep(time.Millisecond)
	}
	if asked, most := len(a.Queries()), int(time.Since(began)/pace)+3; asked > most {
		t.Errorf("asked %d times, at most %d would be right", asked, most)
	}
}

func TestAgentDiesAndReturns(t *testing.T) {
	a := consultest.Start(t, "users", "", registered(1, "passing"))
	w := start(t, a, "wait: 1m")
	w.Want("10.0.0.1:80 in z1")
	a.Close()
	w.Until("a failure", func() bool { return w.Status().Failing })
	w.Want("10.0.0.1:80 in z1")
	a.Set(registered(1, "passing"), registered(2, "passing"))
	a.Restart()
	w.Want("10.0.0.1:80 in z1; 10.0.0.2:80 in z1")
}

// The authority of the agent is replaced while the watch goes on; what the file has then counts.
func TestAuthorityIsReplaced(t *testing.T) {
	a := consultest.Start(t, "users", "", registered(1, "passing"))
	front := discoverytest.StartSecure(t, a.URL, filepath.Join(t.TempDir(), "ca.crt"))
	w := discoverytest.Start(t, Definition, fmt.Sprintf("{consul: {address: %q, service: users, ca: %q, wait: 1s}}", front.URL, front.CA))
	w.Want("10.0.0.1:80 in z1")
	write := front.Replace()
	w.Failing("x509")
	write()
	a.Set(registered(2, "passing"))
	w.Want("10.0.0.2:80 in z1")
}
