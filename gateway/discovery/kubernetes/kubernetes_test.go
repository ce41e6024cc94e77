package kubernetes

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"sluice/gateway/discovery/discoverytest"
	"sluice/gateway/discovery/kubernetes/kubernetestest"
)

func slice1(name string, endpoints ...kubernetestest.Endpoint) kubernetestest.Slice {
	return kubernetestest.Slice{Name: name, Service: "users", Ports: map[string]int{"http": 8080, "metrics": 9090}, Endpoints: endpoints}
}

func ready(n int) kubernetestest.Endpoint {
	return kubernetestest.Endpoint{Address: fmt.Sprintf("10.0.0.%d", n), Ready: true}
}

func start(t *testing.T, s *kubernetestest.Server, settings string) (w *discoverytest.Watch, token string) {
	t.Helper()
	token = filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(token, []byte(s.Token+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	return discoverytest.Start(t, Definition, fmt.Sprintf("{kubernetes: {server: %q, namespace: shop, service: users, token_file: %q, %s}}", s.URL, token, settings)), token
}

func TestListAndWatch(t *testing.T) {
	s := kubernetestest.Start(t, "shop", "t0ken")
	s.PageSize(1)
	s.Put(slice1("a", ready(1), kubernetestest.Endpoint{Address: "10.0.0.2"}))
	s.Put(slice1("b", kubernetestest.Endpoint{Address: "10.0.0.3", Ready: true, Zone: "z"}))
	other := slice1("c", ready(99))
	other.Service = "orders"
	s.Put(other)
	w, _ := start(t, s, "port: http")
	w.Want("10.0.0.1:8080; 10.0.0.3:8080 in z")
	w.Until("a watch", func() bool { return s.Watches() == 1 })
	if q := strings.Join(s.Requests(), " "); !strings.Contains(q, "continue=") || !strings.Contains(q, "allowWatchBookmarks=true") {
		t.Errorf("asked %s", q)
	}
	s.Put(slice1("a", ready(1), ready(2)))
	w.Want("10.0.0.1:8080; 10.0.0.2:8080; 10.0.0.3:8080 in z")
	// What terminates gets no more requests, though it still serves.
	s.Put(slice1("a", kubernetestest.Endpoint{Address: "10.0.0.1", Terminating: true}, ready(2)))
	w.Want("10.0.0.2:8080; 10.0.0.3:8080 in z")
	s.Delete("b")
	w.Want("10.0.0.2:8080")
}

// The version of a bookmark is where the next watch goes on, so that one which has seen nothing else for long is not too old.
func TestBookmark(t *testing.T) {
	s := kubernetestest.Start(t, "shop", "")
	s.Put(slice1("a", ready(1)))
	w, _ := start(t, s, "port: 8080")
	w.Want("10.0.0.1:8080")
	s.Advance(500)
	w.Until("the bookmark", func() bool { return w.Status().Confirmed != nil && s.Watches() == 1 })
	lists := func() (n int) {
		for _, q := range s.Requests() {
			if !strings.Contains(q, "watch=") {
				n++
			}
		}
		return n
	}
	before := lists()
	s.Close()
	w.Until("a failure", func() bool { return w.Status().Failing })
	s.Restart()
	w.Until("recovery", func() bool { return !w.Status().Failing })
	if lists() != before+1 {
		t.Errorf("listed %d times", lists()-before)
	}
}

func TestGone(t *testing.T) {
	s := kubernetestest.Start(t, "shop", "")
	s.Put(slice1("a", ready(1)))
	w, _ := start(t, s, "port: http")
	w.Want("10.0.0.1:8080")
	for n := 2; n < 6; n++ { // by an event in the watch, and by the status of the answer to the next one
		w.Until("a watch", func() bool { return s.Watches() == 1 })
		s.Put(slice1(fmt.Sprint("b", n), ready(n)))
		s.ExpireWatches()
		w.Until("the new one", func() bool { return strings.Contains(w.Last(), fmt.Sprintf("10.0.0.%d:", n)) })
	}
	if st := w.Status(); st.Failures != 0 {
		t.Errorf("410 Gone is no failure: %+v", st)
	}
}

func TestServerDiesAndReturns(t *testing.T) {
	s := kubernetestest.Start(t, "shop", "")
	s.Put(slice1("a", ready(1)))
	w, _ := start(t, s, "port: http")
	w.Want("10.0.0.1:8080")
	s.Close()
	w.Until("a failure", func() bool { return w.Status().Failing })
	s.Put(slice1("a", ready(1), ready(2)))
	s.Forget()
	s.Restart()
	w.Want("10.0.0.1:8080; 10.0.0.2:8080")
}

// Tokens are replaced while the gateway runs.
func TestTokenIsReadAnew(t *testing.T) {
	s := kubernetestest.Start(t, "shop", "old")
	s.Put(slice1("a", ready(1)))
	w, token := start(t, s, "port: http")
	w.Want("10.0.0.1:8080")
	s.Close()
	s.Token = "new"
	s.Restart()
	w.Failing("401 Unauthorized")
	if err := os.WriteFile(token, []byte("new"), 0o600); err != nil {
		t.Fatal(err)
	}
	s.Put(slice1("a", ready(2)))
	w.Want("10.0.0.2:8080")
}

func TestPorts(t *testing.T) {
	s := kubernetestest.Start(t, "shop", "")
	s.Put(slice1("a", ready(1)))
	w, _ := start(t, s, "")
	w.Failing("has 2 ports")
	w, _ = start(t, s, "port: grpc")
	w.Failing(`no port "grpc"`)
	w, _ = start(t, s, "port: 9090")
	w.Want("10.0.0.1:9090")
}

// What a pod would know is missed when it is asked, not when a configuration is validated.
func TestOutsideOfACluster(t *testing.T) {
	t.Setenv("KUBERNETES_SERVICE_HOST", "")
	discoverytest.Start(t, Definition, "{kubernetes: users}").Failing("this is no pod of Kubernetes, since KUBERNETES_SERVICE_HOST")
	discoverytest.Start(t, Definition, `{kubernetes: {service: users, server: "http://127.0.0.1:1"}}`).Failing("name the service's as namespace: NAME")
}

// The authority of the API server is replaced while the watch goes on; what the file has then counts.
func TestAuthorityIsReplaced(t *testing.T) {
	s := kubernetestest.Start(t, "shop", "")
	s.Put(slice1("a", ready(1)))
	front := discoverytest.StartSecure(t, s.URL, filepath.Join(t.TempDir(), "ca.crt"))
	w := discoverytest.Start(t, Definition, fmt.Sprintf("{kubernetes: {server: %q, namespace: shop, service: users, port: http, ca: %q, token_file: off}}", front.URL, front.CA))
	w.Want("10.0.0.1:8080")
	w.Until("a watch", func() bool { return s.Watches() == 1 })
	write := front.Replace()
	s.Close() // the watch ends
	s.Restart()
	w.Failing("x509")
	write()
	s.Put(slice1("a", ready(2)))
	w.Want("10.0.0.2:8080")
}
