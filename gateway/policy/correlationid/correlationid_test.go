package correlationid

import (
	"encoding/binary"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"testing"

	"sluice/gateway/exchange"
	"sluice/gateway/policy"
	"sluice/gateway/policy/policytest"
)

func TestSettings(t *testing.T) { policytest.Files(t, Definition) }

// run gives the id of a request.
func run(t *testing.T, w *policytest.World, h policy.Hooks, headers ...string) string {
	t.Helper()
	x := w.Exchange("/", headers...)
	defer x.Close()
	if err := h.Request(x); err != nil {
		t.Fatal(err)
	}
	return string(x.RequestID)
}

var uuid = regexp.MustCompile(`^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$`)

func TestTrust(t *testing.T) {
	w := policytest.New(t, "")
	f := func(settings, sent string, taken bool) {
		t.Helper()
		id := run(t, w, w.MustBuild(t, Definition, settings), "X-Correlation-ID: "+sent)
		if taken && id != sent || !taken && !uuid.MatchString(id) {
			t.Errorf("%q with %q: id %q", sent, settings, id)
		}
	}
	f("", "abc", true)
	f("", "a", true)
	f("", "550e8400-e29b-41d4-a716-446655440000#12", true)
	f("", strings.Repeat("a", 128), true)
	f("", strings.Repeat("a", 129), false)
	f("", "", false)
	f("", "two words", false)
	f("", `quo"te`, false)
	f("", "quo'te", false)
	f("", `back\slash`, false)
	f("", "tab\there", false)
	f("", "ümlaut", false)
	f("trust: false", "abc", false)
}

func TestWhereTheIDGoes(t *testing.T) {
	w := policytest.New(t, "")
	f := func(settings, header string, echoed bool) {
		t.Helper()
		x := w.Exchange("/", "x-request-id: mine")
		defer x.Close()
		if err := w.MustBuild(t, Definition, settings).Request(x); err != nil {
			t.Fatal(err)
		}
		backend, _ := x.ToBackend.Value(header)
		client, told := x.ToClient.Value(header)
		if string(backend) != string(x.RequestID) || told != echoed || echoed && string(client) != string(x.RequestID) {
			t.Errorf("%q: id %q, to the backend %q, to the client %q", settings, x.RequestID, backend, client)
		}
		if header == "X-Request-ID" && string(x.RequestID) != "mine" {
			t.Errorf("%q: id %q", settings, x.RequestID)
		}
	}
	f("", "X-Correlation-ID", true)
	f("echo: false", "X-Correlation-ID", false)
	f("header: X-Request-ID", "X-Request-ID", true)
}

func TestUUIDsDiffer(t *testing.T) {
	seen := map[string]bool{}
	for range 10_000 {
		id := string(appendUUID(nil))
		if seen[id] || !uuid.MatchString(id) {
			t.Fatalf("%s", id)
		}
		seen[id] = true
	}
}

// Numbers go on over a reload, and all routes share them.
func TestCounter(t *testing.T) {
	w := policytest.New(t, "")
	h := w.MustBuild(t, Definition, "generator: uuid#counter")
	first := run(t, w, h)
	prefix, number, _ := strings.Cut(first, "#")
	if !uuid.MatchString(prefix) || number != "1" {
		t.Fatal(first)
	}
	if second := run(t, w, h); second != prefix+"#2" {
		t.Fatal(second)
	}
	end := w.Reload()
	h = w.MustBuild(t, Definition, "generator: uuid#counter\necho: false")
	end()
	if third := run(t, w, h); third != prefix+"#3" {
		t.Fatal(third)
	}
}

func TestNoAllocations(t *testing.T) {
	w := policytest.New(t, "")
	f := func(settings string, headers ...string) {
		t.Helper()
		h := w.MustBuild(t, Definition, settings)
		w.NoAllocations(t, settings, func(x *exchange.Exchange) {
			if err := h.Request(x); err != nil {
				t.Fatal(err)
			}
		}, headers...)
	}
	f("")
	f("", "X-Correlation-ID: abc")
	f("generator: uuid#counter")
}

func TestDigits(t *testing.T) {
	for _, bits := range []uint32{0, 0x12345678, 0x9abcdef0, 0x0f0f0f0f, 0xf0a9f0a9, 0xffffffff} {
		var got [8]byte
		binary.LittleEndian.PutUint64(got[:], digits(bits))
		slices.Reverse(got[:]) // the lowest comes first
		if want := fmt.Sprintf("%08x", bits); string(got[:]) != want {
			t.Errorf("the digits of %s are %q", want, got)
		}
	}
}
