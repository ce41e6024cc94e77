package audit

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"

	"sluice/gateway/chain"
	"sluice/gateway/exchange"
	"sluice/gateway/policy/policytest"
)

// Nothing that a policy started outlives its configuration.
func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestSettings(t *testing.T) {
	data, err := filepath.Abs("testdata")
	if err != nil {
		t.Fatal(err)
	}
	t.Chdir(t.TempDir()) // where the files of valid settings go
	if err := os.Symlink(data, "testdata"); err != nil {
		t.Fatal(err)
	}
	policytest.Files(t, Definition)
}

// recorded ends the log and gives its records.
func recorded(t *testing.T, w *policytest.World, path string) (all []map[string]any) {
	t.Helper()
	w.Leases.Close()
	if _, err := chain.Verify("", path); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		var v map[string]any
		if err := json.Unmarshal([]byte(line), &v); err != nil {
			t.Fatalf("%v: %s", err, line)
		}
		all = append(all, v)
	}
	return all
}

func TestRecord(t *testing.T) {
	w := policytest.New(t, "")
	path := filepath.Join(t.TempDir(), "audit.log")
	h := w.MustBuild(t, Definition, "{path: "+path+", query: true, headers: [User-Agent, X-Case], mask: [card, x-case]}")
	ask := func(target string, change func(x *exchange.Exchange), headers ...string) {
		x := w.Exchange(target, headers...)
		defer x.Close()
		x.RequestID, x.Status = []byte("id-1"), 200
		change(x)
		w.Advance(time.Millisecond)
		x.Ended = x.Clock.Now()
		h.Done(x)
	}
	ask("/orders/7?a=b%22c&api_key=s3cret&card=4711&Access_Token=s3cret&t%6Fken=s3cret&flag", func(x *exchange.Exchange) {
		x.Identity = exchange.Identity{
			Authenticated: true, Method: "api_key", Subject: []byte("alice"), Credential: []byte("key_1"),
			Consumer: &exchange.Consumer{Name: "alice", NameHeader: []byte("alice")},
		}
		x.Tenant = &exchange.Tenant{Name: "acme"}
		x.BytesIn, x.BytesOut = 3, 5
	}, "Authorization: Bearer s3cret", "User-Agent: curl \"8\"", "X-Case: s3cret")
	ask("/", func(x *exchange.Exchange) {
		x.Status, x.AuthFailure = 401, "unknown_key"
		x.Reject = exchange.NewReject(401, "credential_invalid", "")
	})
	ask("/", func(x *exchange.Exchange) {
		x.Status = 502
		x.Reject = exchange.NewReject(502, "connect_failure", "")
		x.Identity = exchange.Identity{Authenticated: true, Method: "jwt", Subject: []byte("somebody")}
	})
	all := recorded(t, w, path)
	if len(all) != 3 || strings.Contains(fmt.Sprint(all), "s3cret") || strings.Contains(fmt.Sprint(all), "4711") {
		t.Fatal(all)
	}
	f := func(i int, name, want string) {
		t.Helper()
		if got := fmt.Sprint(all[i][name]); got != want {
			t.Errorf("record %d: %s is %s, want %s", i, name, got, want)
		}
	}
	for name, want := range map[string]string{
		"seq": "1", "time": "2027-01-15T08:00:00Z", "request_id": "id-1", "client_ip": "192.0.2.1", "method": "GET", "host": "api.example.com", "path": "/orders/7",
		"query": "a=b%22c&api_key=[masked]&card=[masked]&Access_Token=[masked]&t%6Fken=[masked]&flag",
		"route": "users", "tenant": "acme", "consumer": "alice", "auth": "api_key", "credential": "key_1", "subject": "<nil>",
		"status": "200", "decision": "allowed", "reason": "<nil>", "bytes_in": "3", "bytes_out": "5", "duration_us": "1000",
		"headers": `map[user-agent:curl "8" x-case:[masked]]`,
	} {
		f(0, name, want)
	}
	f(1, "decision", "denied")
	f(1, "reason", "credential_invalid")
	f(1, "auth_failure", "unknown_key")
	f(1, "consumer", "<nil>")
	f(2, "decision", "failed")
	f(2, "reason", "connect_failure")
	f(2, "subject", "somebody")
}

func TestMask(t *testing.T) {
	w := policytest.New(t, "")
	path := filepath.Join(t.TempDir(), "audit.log")
	h := w.MustBuild(t, Definition, "{path: "+path+", mask: [client_ip, subject, consumer, host, path]}")
	x := w.Exchange("/private?q=1")
	x.Identity = exchange.Identity{Authenticated: true, Subject: []byte("private"), Consumer: &exchange.Consumer{NameHeader: []byte("private too")}}
	h.Done(x)
	x.Close()
	all := recorded(t, w, path)
	for _, name := range []string{"client_ip", "subject", "consumer", "host", "path"} {
		if all[0][name] != "[masked]" {
			t.Errorf("%s is %v", name, all[0][name])
		}
	}
	if text := fmt.Sprint(all); strings.Contains(text, "private") || strings.Contains(text, "q=1") {
		t.Error(text)
	}
}

func TestPlace(t *testing.T) {
	w := policytest.New(t, "")
	w.Fails(t, Definition, "{}", "there is no state.dir")
	w.Fails(t, Definition, "{path: stdout}", "is no file")
	dir := t.TempDir()
	w = policytest.New(t, "state: {dir: "+dir+"}")
	h := w.MustBuild(t, Definition, "{}")
	x := w.Exchange("/")
	h.Done(x)
	x.Close()
	if all := recorded(t, w, filepath.Join(dir, "audit", "requests.log")); len(all) != 1 {
		t.Error(all)
	}
}

func TestAllocations(t *testing.T) {
	w := policytest.New(t, "")
	h := w.MustBuild(t, Definition, "{path: "+filepath.Join(t.TempDir(), "audit.log")+", query: true, headers: [User-Agent], mask: [card]}")
	w.NoAllocations(t, "a record", func(x *exchange.Exchange) {
		x.Query = append(x.Scratch(), "a=b&token=x"...)
		h.Done(x)
	}, "User-Agent: curl")
}

func BenchmarkRecord(b *testing.B) {
	w := policytest.New(b, "")
	h := w.MustBuild(b, Definition, "{path: "+filepath.Join(b.TempDir(), "audit.log")+"}")
	w.Benchmark(b, func(x *exchange.Exchange) { h.Done(x) })
}
