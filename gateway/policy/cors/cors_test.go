package cors

import (
	"slices"
	"strings"
	"testing"

	"sluice/gateway/exchange"
	"sluice/gateway/policy/policytest"
)

func TestSettings(t *testing.T) { policytest.Files(t, Definition) }

// told is what the client is told about sharing, in the order of names.
func told(x *exchange.Exchange) string {
	var lines []string
	for _, e := range x.ToClient.List() {
		name := strings.TrimPrefix(e.Name, "Access-Control-")
		if e.Op == exchange.EditRemove {
			name = "-" + name
		}
		lines = append(lines, name+"="+string(e.Value))
	}
	slices.Sort(lines)
	return strings.Join(lines, " ")
}

func TestRequest(t *testing.T) {
	w := policytest.New(t, "")
	f := func(settings, origin, want string) {
		t.Helper()
		x := w.Exchange("/")
		defer x.Close()
		if origin != "" {
			x.Request.Header.Set("Origin", origin)
			policytest.Fields(x)
		}
		if err := w.MustBuild(t, Definition, settings).Request(x); err != nil {
			t.Errorf("%s: %v", settings, err)
		}
		if got := told(x); got != want {
			t.Errorf("%s from %q: %s, want %s", settings, origin, got, want)
		}
	}
	const a = "https://a.example"
	f("", a, "Allow-Origin=*")
	f("", "", "Allow-Origin=*")
	f("expose: [X-A]", "", "Allow-Origin=* Expose-Headers=X-A")
	f("{origins: ["+a+"], expose: [X-A]}", "", "Vary=Origin")
	f("{origins: ['null'], credentials: true}", "null", "Allow-Credentials=true Allow-Origin=null Vary=Origin")
	f("{origins: ["+a+"]}", "null", "Vary=Origin")
	f("expose: [X-A, X-B]", a, "Allow-Origin=* Expose-Headers=X-A, X-B")
	f("expose: ['*']", a, "Allow-Origin=* Expose-Headers=*")
	f("origins: [https://b.example, "+a+"]", a, "Allow-Origin="+a+" Vary=Origin")
	f("origins: "+a, a, "Allow-Origin="+a+" Vary=Origin")
	f("{origins: ["+a+"], credentials: true, expose: [X-A]}", a, "Allow-Credentials=true Allow-Origin="+a+" Expose-Headers=X-A Vary=Origin")
	f("{origins: ["+a+"], credentials: true, expose: [X-A]}", "https://b.example", "Vary=Origin")
	f("{origins: ["+a+"], credentials: true}", "", "Vary=Origin")
	f("origins: ['*', "+a+"]", a, "Allow-Origin=*")
}

func TestOrigins(t *testing.T) {
	f := func(allowed, origin string, want bool) {
		t.Helper()
		o, err := parseOrigins([]string{allowed})
		if err != nil {
			t.Fatal(err)
		}
		if got := o.match([]byte(origin)); got != want {
			t.Errorf("%s allows %s: %v", allowed, origin, got)
		}
	}
	f("https://a.example", "https://a.example", true)
	f("https://A.Example:443/", "https://a.example", true)
	f("http://a.example:80", "http://a.example", true)
	f("http://a.example:443", "http://a.example:443", true)
	f("https://a.example", "http://a.example", false)
	f("https://a.example", "https://a.example:8443", false)
	f("https://a.example", "https://a.example.evil", false)
	f("http://[::1]:3000", "http://[::1]:3000", true)
	f("app://local", "app://local", true)
	f("null", "null", true)
	f("https://a.example", "null", false)
	f("https://*.example.com", "https://a.example.com", true)
	f("https://*.example.com", "https://a.b.example.com", true)
	f("https://*.example.com", "https://example.com", false)
	f("https://*.example.com", "https://.example.com", false)
	f("https://*.example.com", "https://evil.com/.example.com", false)
	f("https://*.example.com", "https://evil.com:80.example.com", false)
	f("https://*.example.com", "https://evil@a.example.com", false)
	f("https://*.example.com", "https://aexample.com", false)
	f("https://*.example.com", "http://a.example.com", false)
	f("https://*.example.com", "https://a.example.com:8443", false)
	f("https://*.example.com:8443", "https://a.example.com:8443", true)
	f(`~https://(a|b)\.example`, "https://b.example", true)
	f(`~https://(a|b)\.example`, "https://b.example.evil", false)
	f(`~a|b`, "xb", false)
	f("~(?m)https://a.example$", "https://a.example\n.evil", false)
	f("~.*", "https://"+strings.Repeat("a", 600), false)
}

func TestPreflight(t *testing.T) {
	w := policytest.New(t, "")
	const a = "https://a.example"
	const usual = "Allow-Methods=GET, HEAD, PUT, PATCH, POST, DELETE "
	const vary = "Vary=Access-Control-Request-Method, Access-Control-Request-Headers"
	f := func(settings, origin, want string, headers ...string) {
		t.Helper()
		x := w.Exchange("/", append(headers, "Origin: "+origin)...)
		defer x.Close()
		x.Request.Header.SetMethod("OPTIONS")
		h := w.MustBuild(t, Definition, settings)
		if err := h.Request(x); err != exchange.Replied || x.Reply.Head.StatusCode() != 204 || x.Reply.Answer != exchange.Own {
			t.Errorf("%s: %v", settings, err)
		}
		x.Render(exchange.Replied)
		if err := h.Response(x); err != nil {
			t.Error(err)
		}
		if got := told(x); got != want {
			t.Errorf("%s from %q:\ngot  %s\nwant %s", settings, origin, got, want)
		}
	}
	const put = "Access-Control-Request-Method: PUT"
	f("", a, usual+"Allow-Origin=* "+vary, put)
	f("", a, "Allow-Headers=x-a,content-type "+usual+"Allow-Origin=* "+vary, put, "Access-Control-Request-Headers: x-a,content-type")
	f("", a, usual+"Allow-Origin=* "+vary, put, "Access-Control-Request-Headers: a<b>")
	f("headers: [X-A, X-B]", a, "Allow-Headers=X-A, X-B "+usual+"Allow-Origin=* "+vary, put, "Access-Control-Request-Headers: x-c")
	f("headers: ['*']", a, "Allow-Headers=x-c "+usual+"Allow-Origin=* "+vary, put, "Access-Control-Request-Headers: x-c")
	f("methods: [GET]", a, "Allow-Methods=GET Allow-Origin=* "+vary, put)
	f("methods: ['*']", a, "Allow-Methods=PUT Allow-Origin=* "+vary, put)
	f("max_age: 10m", a, usual+"Allow-Origin=* Max-Age=600 "+vary, put)
	f("max_age: 0s", a, usual+"Allow-Origin=* Max-Age=0 "+vary, put)
	f("{origins: ["+a+"], credentials: true, expose: [X-A]}", a, "Allow-Credentials=true "+usual+"Allow-Origin="+a+" "+vary+" Vary=Origin", put)
	f("{origins: ["+a+"], credentials: true}", "https://b.example", vary+" Vary=Origin", put)
	f("", a, usual+"Allow-Origin=* "+vary, put, "Access-Control-Request-Private-Network: true")
	f("private_network: true", a, usual+"Allow-Origin=* Allow-Private-Network=true "+vary+", Access-Control-Request-Private-Network", put, "Access-Control-Request-Private-Network: true")
	f("private_network: true", a, usual+"Allow-Origin=* "+vary+", Access-Control-Request-Private-Network", put)
}

// OPTIONS that is no preflight request goes to the backend.
func TestOptions(t *testing.T) {
	w := policytest.New(t, "")
	h := w.MustBuild(t, Definition, "")
	f := func(headers ...string) {
		t.Helper()
		x := w.Exchange("/", headers...)
		defer x.Close()
		x.Request.Header.SetMethod("OPTIONS")
		if err := h.Request(x); err != nil {
			t.Errorf("%v: %v", headers, err)
		}
	}
	f()
	f("Origin: https://a.example")
	f("Access-Control-Request-Method: PUT")
}

// What a backend says of sharing is replaced, and gone where the gateway says nothing.
func TestResponse(t *testing.T) {
	w := policytest.New(t, "")
	h := w.MustBuild(t, Definition, "origins: [https://a.example]")
	f := func(origin, want string) {
		t.Helper()
		x := w.Exchange("/", "Origin: "+origin)
		defer x.Close()
		if err := h.Request(x); err != nil {
			t.Fatal(err)
		}
		r := &x.Response.Header
		r.DisableNormalizing()
		r.Set("access-control-allow-origin", "*")
		r.Set("Access-Control-Allow-Credentials", "true")
		r.Set("X-Kept", "1")
		if err := h.Response(x); err != nil {
			t.Fatal(err)
		}
		if got := told(x); got != want {
			t.Errorf("from %s: %s, want %s", origin, got, want)
		}
		x.ToClient.Apply(r)
		if exchange.PeekResponse(r, "Access-Control-Allow-Credentials") != nil || r.Peek("X-Kept") == nil {
			t.Errorf("from %s: %s", origin, r)
		}
	}
	f("https://a.example", "-Allow-Credentials= Allow-Origin=https://a.example Vary=Origin")
	f("https://b.example", "-Allow-Credentials= -Allow-Origin= Vary=Origin")
}

func TestNoAllocations(t *testing.T) {
	w := policytest.New(t, "")
	f := func(settings string, headers ...string) {
		t.Helper()
		h := w.MustBuild(t, Definition, settings)
		w.NoAllocations(t, settings, func(x *exchange.Exchange) {
			_ = h.Request(x)
			_ = h.Response(x)
		}, headers...)
	}
	f("")
	f("{origins: [https://b.example, 'https://*.example', '~https://(a|b).example'], credentials: true}", "Origin: https://a.example")
	f("{origins: [https://b.example], credentials: true}", "Origin: https://a.example")

	h := w.MustBuild(t, Definition, "{max_age: 10m}")
	w.NoAllocations(t, "preflight", func(x *exchange.Exchange) {
		x.Request.Header.SetMethod("OPTIONS")
		_ = h.Request(x)
		_ = h.Response(x)
	}, "Origin: https://a.example", "Access-Control-Request-Method: PUT", "Access-Control-Request-Headers: x-a")
}
