package kong

import (
	"testing"

	"sluice/config"
)

// The paths are those that Kong's documentation of path_handling has.
func TestPathsAreJoinedAsKongDoes(t *testing.T) {
	f := func(handling, base, prefix string, strip bool, path, want string) {
		t.Helper()
		r := NewRoute(Settings{Config: &config.RouteKong{Path: base, PathHandling: handling}, Strip: strip})
		if got := string(r.appendPath(nil, []byte(path), len(prefix))); got != want {
			t.Errorf("%s: %q behind %q of %q, strip %v: %q, want %q", handling, path, base, prefix, strip, got, want)
		}
	}
	f("v0", "/s", "/fv0", false, "/fv0/req", "/s/fv0/req")
	f("v0", "/s", "/fv0", false, "/fv0", "/s/fv0")
	f("v0", "/s", "/tv0", true, "/tv0/req", "/s/req")
	f("v0", "/s", "/tv0", true, "/tv0", "/s")
	f("v0", "/s", "/tv0/", true, "/tv0/req", "/s/req")
	f("v0", "/s/", "/tv0", true, "/tv0/req", "/s/req")
	f("v0", "/s/", "/tv0", true, "/tv0", "/s")
	f("v0", "/s", "/tv0", true, "/tv0/", "/s/")
	f("v0", "/s", "/tv0/", true, "/tv0/", "/s/")
	f("v0", "/", "/tv0", true, "/tv0", "/")
	f("v0", "/", "/tv0", true, "/tv0/x", "/x")
	f("v0", "/", "/tv0", true, "/tv0x", "/x")
	f("v0", "/s", "/", false, "/", "/s")
	f("v0", "/s/", "", false, "/a", "/s/a")
	f("v1", "/s", "/fv1", false, "/fv1/req", "/sfv1/req")
	f("v1", "/s", "/tv1", true, "/tv1/req", "/s/req")
	f("v1", "/s", "/tv1/", true, "/tv1/req", "/sreq")
	f("v1", "/s/", "/tv1", true, "/tv1/req", "/s/req")
	f("v0", "/s", "/a", true, "/a../b", "/s/b")
	f("v0", "/s", "/a", true, "/a..", "/s")
}

func TestErrorsAreWrittenInTheFormThatIsAskedFor(t *testing.T) {
	f := func(accept string, want int) {
		t.Helper()
		if got := formOf([]byte(accept)); got != want {
			t.Errorf("%q: form %d, want %d", accept, got, want)
		}
	}
	f("", asJSON)
	f("*/*", asJSON)
	f("text/html,application/xhtml+xml,*/*;q=0.8", asHTML)
	f("text/plain", asPlain)
	f("application/xml;q=0.9, application/json;q=0.1", asXML)
	f("text/html;q=0, application/json", asJSON)
	f("image/png", asJSON)
}

func TestLinesTellOfAConsumer(t *testing.T) {
	if got := string(Lines("alice", &config.ConsumerKong{ID: "1", CustomID: "42", Username: "alice"})); got != "X-Consumer-ID: 1\r\nX-Consumer-Custom-ID: 42\r\nX-Consumer-Username: alice\r\n" {
		t.Errorf("%q", got)
	}
	if got := string(Lines("alice", nil)); got != "X-Consumer-ID: alice\r\n" {
		t.Errorf("%q", got)
	}
	if got := string(Lines("alice", &config.ConsumerKong{CustomID: "4\r\nX-Admin: 1"})); got != "X-Consumer-ID: alice\r\n" {
		t.Errorf("%q", got)
	}
}
