package openapi

import (
	"strings"
	"testing"

	"sluice/gateway/exchange"
	"sluice/gateway/policy"
	"sluice/gateway/policy/policytest"
)

func TestSettings(t *testing.T) { policytest.Files(t, Definition) }

// ask sends one request through the policy and returns the answer's status and detail, 0 and "" for one that passes.
func ask(t *testing.T, w *policytest.World, h policy.Hooks, method, target, body string, headers ...string) (int, string) {
	t.Helper()
	path, query, _ := strings.Cut(target, "?")
	x := w.Exchange(path, headers...)
	defer x.Close()
	x.Request.Header.SetMethod(method)
	x.Query = []byte(query)
	policytest.Fields(x)
	if body != "" {
		x.Fields = append(x.Fields, exchange.Field{Name: []byte("Content-Length"), Value: []byte("1")})
		x.Request.SetBodyStream(strings.NewReader(body), len(body))
	}
	err := h.Request(x)
	if err == nil {
		return 0, ""
	}
	r, ok := err.(*exchange.Reject)
	if !ok {
		t.Fatalf("%s %s: %v", method, target, err)
	}
	return r.Status, r.Detail
}

func mustBuild(t *testing.T, settings string) (*policytest.World, policy.Hooks) {
	t.Helper()
	w := policytest.New(t, "")
	h, err := w.Build(Definition, settings)
	if err != nil {
		t.Fatal(err)
	}
	return w, h
}

func TestRequests(t *testing.T) {
	w, h := mustBuild(t, "testdata/shop.yaml")
	f := func(method, target, body string, status int, detail string, headers ...string) {
		t.Helper()
		got, text := ask(t, w, h, method, "/api/v1"+target, body, headers...)
		if got != status || !strings.Contains(text, detail) {
			t.Errorf("%s %s %s: got %d %q, want %d %q", method, target, body, got, text, status, detail)
		}
	}
	const shop, isJSON, isForm = "X-Shop: a", "Content-Type: application/json; charset=utf-8", "Content-Type: application/x-www-form-urlencoded"

	f("GET", "/orders", "", 0, "", shop)
	f("HEAD", "/orders?limit=5&state=open&state=paid&other=1", "", 0, "", shop)
	f("GET", "/orders", "", 400, `header "X-Shop": is missing`)
	f("GET", "/orders", "", 400, `header "X-Shop": maximum string length`, "X-Shop: much-too-long")
	f("GET", "/orders", "", 400, `header "X-Shop": stands more than once`, shop, shop)
	f("GET", "/orders?limit=0", "", 400, `query parameter "limit": number must be at least 1`, shop)
	f("GET", "/orders?limit=secret", "", 400, `query parameter "limit": is not of the type integer`, shop)
	f("GET", "/orders?limit=5;x", "", 400, `query parameter "limit"`, shop)
	f("GET", "/orders?limit=5&limit=500", "", 400, `query parameter "limit": stands more than once`, shop)
	f("GET", "/orders?limit=%zz", "", 400, `query: has a broken percent-encoding`, shop)
	f("GET", "/orders?state=open&state=lost", "", 400, `query parameter "state"[1]`, shop)
	f("GET", "/orders", "", 400, `cookie "session"`, shop, "Cookie: session=XYZ")
	f("GET", "/orders", "", 400, `cookie "session": stands more than once`, shop, "Cookie: session=aa; session=XYZ")
	f("GET", "/orders/12", "", 0, "")
	f("GET", "/orders/recent", "", 0, "") // the concrete path comes first
	f("GET", "/orders/99999999999", "", 400, `path parameter "id": is not of the type integer`)
	f("GET", "/files/a.b.png", "", 0, "")
	f("GET", "/files/a.exe", "", 400, `path parameter "ext"`)
	f("GET", "/orders/", "", 404, "no such path")
	f("GET", "/nothing", "", 404, "no such path")
	f("PUT", "/orders", "", 405, "GET, HEAD, POST only")

	f("POST", "/orders", `{"items":[{"sku":"a","price":1.5}],"owner":"9f0e7a4e-1111-4222-8333-444455556666"}`, 0, "", isJSON)
	f("POST", "/orders", "", 400, "body: is missing", isJSON)
	f("POST", "/orders", `{"items":[{"sku":"a"},{"sku":"b","price":-2}]}`, 400, "body.items[1].price: number must be at least 0", isJSON)
	f("POST", "/orders", `{"items":[{"price":2}]}`, 400, "body.items[0].sku", isJSON)
	f("POST", "/orders", `{"items":[]}`, 400, "body.items: minimum number of items", isJSON)
	f("POST", "/orders", `{"items":[{"sku":"a"}],"owner":"me"}`, 400, "body.owner: is not of the format uuid", isJSON)
	f("POST", "/orders", `{"items":[{"sku":"a"}],"id":7}`, 400, "body.id", isJSON)
	f("POST", "/orders", `{"items":[{"sku":"a"}],"more":7}`, 400, "more", isJSON)
	f("POST", "/orders", `{"items":[{"sku":"a","sku":7}]}`, 400, "body.items[0].sku: stands more than once", isJSON)
	f("POST", "/orders", `{"items":`, 400, "body: is no JSON", isJSON)
	f("POST", "/orders", `{"items":[{"sku":"a"}]} {}`, 400, "behind its JSON", isJSON)
	f("POST", "/orders", strings.Repeat("[", 400), 400, "nests deeper", isJSON)
	f("POST", "/orders", "\"\xff\"", 400, "UTF-8", isJSON)
	f("POST", "/orders", `note=hello&count=5`, 0, "", isForm)
	f("POST", "/orders", `count=5`, 400, "body.note", isForm)
	f("POST", "/orders", `note=a&count=5&count=x`, 400, "body.count: stands more than once", isForm)
	f("POST", "/orders", `note=a&count=x`, 400, "body", isForm)
	f("POST", "/orders", `PNG`, 0, "", "Content-Type: image/png")
	f("POST", "/orders", `<a/>`, 415, "want application/json, application/x-www-form-urlencoded, image/png", "Content-Type: text/xml")
	f("POST", "/orders", `{}`, 415, "wrong type")
	f("POST", "/orders", `{}`, 415, "content coding", isJSON, "Content-Encoding: gzip")
	f("DELETE", "/orders/1", `{}`, 400, "body: DELETE /orders/{id} takes none", isJSON)
	f("POST", "/orders", `"`+strings.Repeat("a", 2<<20)+`"`, 413, "too large", isJSON)
}

// A request is refused by what it says, and its values stay out of what is told.
func TestValuesAreNotTold(t *testing.T) {
	for _, file := range []string{"shop.yaml", "new.yaml"} {
		w, h := mustBuild(t, "testdata/"+file)
		const secret = "s3cr3t-value"
		for _, c := range []struct{ method, target, body string }{
			{"GET", "/api/v1/orders?limit=" + secret, ""},
			{"POST", "/api/v1/orders", `{"items":[{"sku":"a"}],"owner":"` + secret + `"}`},
			{"POST", "/api/v1/orders", `{"items":"` + secret + `"}`},
			{"GET", "/things?size=" + secret, ""},
			{"GET", "/things?kind=" + secret, ""},
			{"POST", "/things", `{"name":"ab","when":"` + secret + `"}`},
			{"POST", "/things", `{"name":"ab","size":"` + secret + `"}`},
		} {
			status, text := ask(t, w, h, c.method, c.target, c.body, "X-Shop: a", "Content-Type: application/json")
			if status == 0 || strings.Contains(text, secret) {
				t.Errorf("%s %s %s: got %d %q", c.method, c.target, c.body, status, text)
			}
		}
	}
}

// A document of 3.1 means JSON Schema.
func TestJSONSchema(t *testing.T) {
	w, h := mustBuild(t, "testdata/new.yaml")
	f := func(method, target, body string, status int, detail string) {
		t.Helper()
		got, text := ask(t, w, h, method, target, body, "Content-Type: application/json")
		if got != status || !strings.Contains(text, detail) {
			t.Errorf("%s %s %s: got %d %q, want %d %q", method, target, body, got, text, status, detail)
		}
	}
	f("GET", "/things?size=1&kind=a", "", 0, "")
	f("GET", "/things?size=0", "", 400, `query parameter "size"`)
	f("GET", "/things?kind=b", "", 400, `query parameter "kind"`)
	f("POST", "/things", `{"name":null,"parts":[{"name":"ab"}],"when":"2027-01-02T03:04:05Z","size":0.5}`, 0, "")
	f("POST", "/things", `{"name":"ab","parts":[{"name":"ab"},{"name":7}]}`, 400, "body.parts[1].name: is not of the type null or string")
	f("POST", "/things", `{"parts":[]}`, 400, "body.name: is missing")
	f("POST", "/things", `{"name":"a"}`, 400, "body.name: has less than 2 characters")
	f("POST", "/things", `{"name":"ab","when":"soon"}`, 400, "body.when: is not of the format date-time")
	f("POST", "/things", `{"name":"ab","size":0}`, 400, "body.size: is not more than 0")
	f("POST", "/things", `{"name":"ab","odd":0}`, 400, "body.odd: is not allowed here")
}

// Numbers that cost milliseconds each, and that readers take for different ones, are refused before they are checked.
func TestHugeNumbers(t *testing.T) {
	f := func(file, target, body string, status int, detail string) {
		t.Helper()
		w, h := mustBuild(t, file)
		got, text := ask(t, w, h, "POST", target, body, "X-Shop: a", "Content-Type: application/json")
		if got != status || !strings.Contains(text, detail) {
			t.Errorf("%.80s: got %d %q, want %d %q", body, got, text, status, detail)
		}
	}
	for _, size := range []string{"1e999999", "1e-999999", "1E+401", "1e99999999999999999999", strings.Repeat("9", 2000)} {
		f("testdata/new.yaml", "/things", `{"name":"ab","size":`+size+`}`, 400, "body.size: is a number that not every reader can hold")
		f("testdata/new.yaml", "/things", `{"name":"ab","parts":[`+size+`]}`, 400, "body.parts[0]: is a number that not every reader can hold")
		f("testdata/shop.yaml", "/api/v1/orders", `{"items":`+size+`}`, 400, "body.items: is a number that not every reader can hold")
	}
	for _, size := range []string{"1.7976931348623157e308", "4.9e-324", "18446744073709551615", "1" + strings.Repeat("0", 308)} {
		f("testdata/new.yaml", "/things", `{"name":"ab","size":`+size+`}`, 0, "")
	}
}

func TestDetectPasses(t *testing.T) {
	w, h := mustBuild(t, "{file: testdata/shop.yaml, requests: detect}")
	if status, text := ask(t, w, h, "GET", "/api/v1/orders?limit=0", "", "X-Shop: a"); status != 0 {
		t.Errorf("got %d %q", status, text)
	}
	if status, text := ask(t, w, h, "GET", "/api/v1/none", ""); status != 0 {
		t.Errorf("got %d %q", status, text)
	}
	if log := w.Logged(); !strings.Contains(log, "a request does not fit") || !strings.Contains(log, "GET /orders") {
		t.Errorf("logged %q", log)
	}
}

func TestBasePath(t *testing.T) {
	w, h := mustBuild(t, "{file: testdata/shop.yaml, base_path: /shop}")
	if status, text := ask(t, w, h, "GET", "/shop/orders/1", ""); status != 0 {
		t.Errorf("got %d %q", status, text)
	}
	for _, path := range []string{"/api/v1/orders/1", "/shopping/orders/1"} {
		if status, _ := ask(t, w, h, "GET", path, ""); status != 404 {
			t.Errorf("%s: got %d, want 404", path, status)
		}
	}
}
