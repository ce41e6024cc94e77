package basicauth

import (
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"runtime"
	"strings"
	"sync"
	"testing"

	"golang.org/x/crypto/argon2"
	"golang.org/x/crypto/bcrypt"

	"sluice/config"
	"sluice/gateway/exchange"
	"sluice/gateway/policy/policytest"
)

func sha256Of(password string) string {
	return fmt.Sprintf("sha256:%x", sha256.Sum256([]byte(password)))
}

func bcryptOf(password string) string {
	h, err := bcrypt.GenerateFromPassword([]byte(password), bcrypt.MinCost)
	if err != nil {
		panic(err)
	}
	return string(h)
}

func argon2Of(password string) string {
	salt := []byte("saltsalt")
	b64 := base64.RawStdEncoding.EncodeToString
	return "$argon2id$v=19$m=64,t=1,p=2$" + b64(salt) + "$" + b64(argon2.IDKey([]byte(password), salt, 1, 64, 2, 32))
}

func basic(credential string) string {
	return "Authorization: Basic " + base64.StdEncoding.EncodeToString([]byte(credential))
}

func world(t testing.TB) *policytest.World {
	w := policytest.New(t, fmt.Sprintf(`
consumers:
  alice: {basic_auth: [{hash: %q}]}
  bob: {}
  carol: {}
`, sha256Of("wonderland")))
	w.Config.Consumers["bob"].BasicAuth = []config.BasicCredential{{Username: "bob@example.com", Hash: bcryptOf("build:it")}}
	w.Config.Consumers["carol"].BasicAuth = []config.BasicCredential{{Hash: argon2Of("sing")}, {Username: "carola", Hash: sha256Of("")}}
	return w
}

func TestAuthenticate(t *testing.T) {
	w := world(t)
	h := w.MustBuild(t, Definition, "")
	if !h.Blocking {
		t.Error("slow hashes, and yet it says that it does not block")
	}
	f := func(want, wantUser string, headers ...string) {
		t.Helper()
		for range 2 { // the second time from memory
			x := w.Exchange("/", headers...)
			err := h.Authenticate(x)
			user, _ := x.ToBackend.Value("X-User-ID")
			switch {
			case err == nil:
				if x.Identity.Consumer == nil || x.Identity.Consumer.Name != want || string(x.Identity.Subject) != wantUser || string(user) != wantUser {
					t.Errorf("%q: %+v, want %s", headers, x.Identity, want)
				}
			case err == exchange.ErrNoCredential:
				if want != "none" {
					t.Errorf("%q: no credential, want %s", headers, want)
				}
			case err != invalid || x.AuthFailure != want || x.Identity.Authenticated || user != nil:
				t.Errorf("%q: %v, %s, want %s", headers, err, x.AuthFailure, want)
			}
			x.Close()
		}
	}
	f("alice", "alice", basic("alice:wonderland"))
	f("alice", "alice", strings.Replace(basic("alice:wonderland"), "Basic ", "bASIC   ", 1))
	f("bob", "bob@example.com", basic("bob@example.com:build:it"))
	f("carol", "carol", basic("carol:sing"))
	f("carol", "carola", basic("carola:"))
	f("none", "")
	f("none", "", "Authorization: Bearer x")
	f("none", "", "Authorization: Basic")
	f("wrong_password", "", basic("alice:wonderlan"))
	f("wrong_password", "", basic("bob@example.com:build:it "))
	f("wrong_password", "", basic("carol:build:it"))
	f("wrong_password", "", basic("bob@example.com:"))
	f("unknown_user", "", basic("bob:build:it"))
	f("unknown_user", "", basic("Alice:wonderland"))
	f("unknown_user", "", basic(":"))
	f("malformed", "", basic("alice"))
	f("malformed", "", "Authorization: Basic alice:wonderland")
	f("malformed", "", basic("alice:wonderland"), basic("alice:wonderland"))
	f("malformed", "", basic("alice:"+strings.Repeat("x", maxCredential)))
}

func TestNoUsers(t *testing.T) {
	w := policytest.New(t, "")
	h := w.MustBuild(t, Definition, "")
	x := w.Exchange("/", basic(":"))
	if err := h.Authenticate(x); err != invalid || h.Blocking {
		t.Fatal(err)
	}
}

// A slow hash is computed once for a credential, also over a reload, and never again for one that was withdrawn.
func TestVerifiedIsRemembered(t *testing.T) {
	w := world(t)
	computed := 0
	f := func(credential string, want error, wantComputed int) {
		t.Helper()
		u, err := newUsers(w.World)
		if err != nil {
			t.Fatal(err)
		}
		for _, u := range u.all {
			if u.password.slow() {
				u.password = counted{u.password, &computed}
			}
		}
		w.MustBuild(t, Definition, "")
		v := livingVerified(w)
		a := &authenticator{users: u, verified: v, slow: newTurnstile()}
		computed = 0
		for range 3 {
			x := w.Exchange("/", basic(credential))
			if err := a.authenticate(x); err != want {
				t.Fatalf("%s: %v", credential, err)
			}
			x.Close()
		}
		if computed != wantComputed {
			t.Errorf("%s: %d hashes computed, want %d", credential, computed, wantComputed)
		}
	}
	f("bob@example.com:build:it", nil, 1)
	f("bob@example.com:wrong", invalid, 3)
	defer w.Reload()()
	f("bob@example.com:build:it", nil, 0)
	w.Config.Consumers["bob"].BasicAuth[0].Hash = bcryptOf("new")
	f("bob@example.com:build:it", invalid, 3)
	f("bob@example.com:new", nil, 1)
	w.Config.Consumers["bob"].BasicAuth = nil
	f("carol:sing", nil, 1)
	w.Config.Consumers["carol"].BasicAuth = w.Config.Consumers["carol"].BasicAuth[:1]
	w.Config.Consumers["alice"].BasicAuth = nil
	f("bob@example.com:new", invalid, 3) // computed for nothing, as for a user that is known
}

type counted struct {
	passwordHash
	n *int
}

func (c counted) matches(password []byte) bool {
	*c.n++
	return c.passwordHash.matches(password)
}

func livingVerified(w *policytest.World) (found *verified) {
	w.Living.Range(func(_ string, v any, _ int) bool {
		if v, ok := v.(*verified); ok {
			found = v
		}
		return true
	})
	return found
}

func TestVerifiedIsBounded(t *testing.T) {
	v := newVerified()
	u := &user{name: []byte("u"), hashed: []byte("h")}
	for i := range 3 * sets * ways {
		password := fmt.Append(nil, i)
		v.add(u, password)
		if !v.has(u, password) {
			t.Fatal("not remembered")
		}
	}
	if v.has(&user{name: []byte("u"), hashed: []byte("other")}, fmt.Append(nil, 3*sets*ways-1)) {
		t.Fatal("remembered for another hash")
	}
}

func TestParseHash(t *testing.T) {
	f := func(s, want string) {
		t.Helper()
		h, err := parseHash(s)
		switch {
		case want == "" && err != nil:
			t.Errorf("%s: %v", s, err)
		case want != "" && (err == nil || !strings.Contains(err.Error(), want)):
			t.Errorf("%s: %v, want %q", s, err, want)
		case want == "" && (!h.matches([]byte("p")) || h.matches([]byte("q"))):
			t.Errorf("%s does not tell passwords apart", s)
		}
	}
	f(sha256Of("p"), "")
	f(strings.ToUpper(sha256Of("p")[:7])+sha256Of("p")[7:], "no hash")
	f(bcryptOf("p"), "")
	f(strings.Replace(bcryptOf("p"), "$2a$", "$2y$", 1), "")
	f(argon2Of("p"), "")
	f("p", "no hash")
	f("sha256:abc", "no hash")
	f("$2a$xx$", "no bcrypt hash")
	f("$2a$31$"+strings.Repeat("a", 53), "takes too long")
	f("$argon2id$v=18$m=64,t=1,p=2$c2FsdHNhbHQ$"+strings.Repeat("a", 43), "no argon2id hash")
	f("$argon2id$v=19$m=64,t=1,p=0$c2FsdHNhbHQ$"+strings.Repeat("A", 22), "out of range")
	f("$argon2id$v=19$m=9999999,t=1,p=1$c2FsdHNhbHQ$"+strings.Repeat("A", 22), "out of range")
	f("$argon2id$v=19$m=64,t=1,p=1x$c2FsdHNhbHQ$"+strings.Repeat("A", 22), "no argon2id hash")
	f("$argon2id$v=19$m=64,t=1,p=1$$", "no argon2id hash")
}

func TestHide(t *testing.T) {
	w := world(t)
	f := func(settings, header string, want bool) {
		t.Helper()
		h := w.MustBuild(t, Definition, settings)
		x := w.Exchange("/", header)
		defer x.Close()
		if h.Request != nil {
			h.Request(x)
		}
		if _, hidden := x.ToBackend.Value("Authorization"); hidden != want {
			t.Errorf("%s %s: hidden %t", settings, header, hidden)
		}
	}
	f("", basic("a:b"), true)
	f("", "Authorization: Bearer x", false)
	f("hide: false", basic("a:b"), false)
}

func TestTurnstileIsBounded(t *testing.T) {
	s := newTurnstile()
	for range cap(s.turns) {
		s.enter()
	}
	var wg sync.WaitGroup
	for range maxWaiting {
		wg.Go(func() {
			if !s.enter() {
				t.Error("refused while there is room to wait")
			}
			s.leave()
		})
	}
	for s.waiting.Load() < maxWaiting {
		runtime.Gosched()
	}
	if s.enter() {
		t.Error("one too many waits")
	}
	for range cap(s.turns) {
		s.leave()
	}
	wg.Wait()
}

func TestBuildFailure(t *testing.T) {
	w := world(t)
	w.Fails(t, Definition, "anonymous: nobody", `no consumer "nobody"`)
	w.Config.Consumers["bob"].BasicAuth[0].Username = "alice"
	w = &policytest.World{World: w.World}
	defer w.Reload()()
	w.Fails(t, Definition, "", `consumers.bob.basic_auth[0].username`)
}

func TestAllocations(t *testing.T) {
	w := world(t)
	h := w.MustBuild(t, Definition, "")
	f := func(header string, want error) {
		t.Helper()
		w.NoAllocations(t, header, func(x *exchange.Exchange) {
			if err := h.Authenticate(x); err != want {
				t.Fatal(err)
			}
		}, header)
	}
	f(basic("alice:wonderland"), nil)
	f(basic("bob@example.com:build:it"), nil)
	f(basic("alice:wrong"), invalid)
	f("X: y", exchange.ErrNoCredential)
}
