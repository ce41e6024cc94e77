package requesttransform

import (
	"strings"
	"testing"

	"sluice/gateway/coding"
	"sluice/gateway/exchange"
	"sluice/gateway/policy/policytest"
)

// posted is an exchange of a POST with this body, which has come.
func posted(w *policytest.World, contentType, body string, headers ...string) *exchange.Exchange {
	x := w.Exchange("/users?q=1", append(headers, "Content-Type: "+contentType)...)
	x.Request.Header.SetMethod("POST")
	x.Request.Header.SetContentLength(len(body))
	x.Request.SetBodyStream(strings.NewReader(body), len(body))
	policytest.Fields(x)
	return x
}

func TestBody(t *testing.T) {
	w := policytest.New(t, "")
	f := func(settings, body, want string) {
		t.Helper()
		x := posted(w, "application/json; charset=utf-8", body, "X-A: he said \"hi\"", "X-Empty: ")
		defer x.Close()
		if err := w.MustBuild(t, Definition, settings).Request(x); err != nil {
			t.Fatal(err)
		}
		if string(x.Body) != want {
			t.Errorf("%s of %s:\ngot  %s\nwant %s", settings, body, x.Body, want)
		}
	}
	f("remove: {json: [is_admin, a.b]}", `{"is_admin":true,"n":1.10,"a":{"b":1}}`, `{"n":1.10,"a":{}}`)
	f("rename: {json: {a: b}}", `{"x":1,"a":2}`, `{"x":1,"b":2}`)
	f("replace: {json: {a: 1.5, b: text, c: true, d: null, e: [1, x], f: {y: 2, z: '${client_ip}'}, g: '7'}}",
		`{"a":0,"b":0,"c":0,"d":0,"e":0,"f":0,"g":0}`, `{"a":1.5,"b":"text","c":true,"d":null,"e":[1,"x"],"f":{"y":2,"z":"192.0.2.1"},"g":"7"}`)
	f("add: {json: {a: '${header.x-a} and ${query.q}', b: '${header.X-Empty}'}}", `{}`, `{"a":"he said \"hi\" and 1"}`)
	f("replace: {json: {a: '${header.X-None}'}}", `{"a":1,"b":2}`, `{"b":2}`)
	f("append: {json: {tags: [x, 2], more: y}}", `{"tags":["a"]}`, `{"tags":["a","x",2],"more":["y"]}`)
	f("{remove: {json: [a]}, rename: {json: {b: a}}, replace: {json: {a: 5}}, add: {json: {c: 6}}, append: {json: {c: 7}}}", `{"a":1,"b":2}`, `{"a":5,"c":6}`)
	f("remove: {json: ['[*].p']}", ` [ {"p":1} ] `, `[{}]`)
}

func TestConvert(t *testing.T) {
	w := policytest.New(t, "")
	f := func(settings, contentType, body, wantType, want string) {
		t.Helper()
		x := posted(w, contentType, body)
		defer x.Close()
		if err := w.MustBuild(t, Definition, settings).Request(x); err != nil {
			t.Fatal(err)
		}
		gotType, _ := x.ToBackend.Value("Content-Type")
		if !strings.HasSuffix(string(x.Body), want) || string(gotType) != wantType {
			t.Errorf("%s: %s %s", settings, gotType, x.Body)
		}
	}
	f("convert: {from: form, to: json}", "application/x-www-form-urlencoded", "a=1&b=2&b=3", "application/json", `{"a":"1","b":["2","3"]}`)
	f("convert: {from: json, to: form}", "application/json", `{"a":1,"b":[true,"x y"]}`, "application/x-www-form-urlencoded", `a=1&b=true&b=x+y`)
	f("{convert: {from: xml, to: json, lists: [b]}, remove: {json: [a.secret]}}", "text/xml", `<a><b>1</b><secret/></a>`, "application/json", `{"a":{"b":["1"]}}`)
	f("{convert: {from: json, to: xml, root: r}, add: {json: {c: 1}}}", "application/json", `{"a":1}`, "application/xml; charset=utf-8", "\n<r><a>1</a><c>1</c></r>")
	f("convert: {from: json, to: soap, operation: Get, namespace: 'urn:u', action: do}", "application/json", `{"id":7}`, "text/xml; charset=utf-8", `<soap:Body><Get xmlns="urn:u"><id>7</id></Get></soap:Body></soap:Envelope>`)
	f("convert: {from: json, to: soap, operation: Get, action: do, version: '1.2'}", "application/json", `{}`, `application/soap+xml; charset=utf-8; action="do"`, `<soap:Body><Get></Get></soap:Body></soap:Envelope>`)
	f("convert: {from: xml, to: json}", "text/plain", `<a/>`, "", "")
}

func TestBodyFailure(t *testing.T) {
	w := policytest.New(t, "")
	f := func(settings, contentType, body string, status int, detail string, headers ...string) {
		t.Helper()
		x := posted(w, contentType, body, headers...)
		defer x.Close()
		err := w.MustBuild(t, Definition, settings).Request(x)
		r, ok := err.(*exchange.Reject)
		if !ok || r.Status != status || !strings.Contains(r.Detail, detail) {
			t.Errorf("%s: %v %+v", body, err, r)
		}
	}
	const removing = "{remove: {json: [a]}, max_body: 20}"
	const json = "application/json"
	f(removing, json, "{\"a\":1,\n 2}", 400, "line 2, column 2: a name in quotes")
	f(removing, json, "{\"a\":\"\xff\"}", 400, "UTF-8")
	f(removing, json, `{"a":"12345678901234567890"}`, 413, "too large")
	f(removing, json, "not gzip", 400, "Content-Encoding", "Content-Encoding: gzip")
	f(removing, json, "x", 415, "coding", "Content-Encoding: compress")
	f("{remove: {json: [a]}, other_types: reject}", "text/plain", "x", 415, "type")
	f("convert: {from: xml, to: json}", "application/xml", `<!DOCTYPE a [<!ENTITY b SYSTEM "file:///etc/passwd">]><a>&b;</a>`, 400, "document type")
	f("convert: {from: json, to: form}", json, `{"a":{"b":1}}`, 422, "can not be converted")
	f("{add: {json: {'[*].a': 12345678901234567890123456789012345678901234567890}}, max_body: 50}", json, "["+strings.Repeat("{},", 15)+"{}]", 413, "too large")

	e := coding.NewEncoder(coding.Gzip)
	defer e.Release()
	bomb, err := e.Encode(append([]byte(`"`), make([]byte, 100_000)...), false, true)
	if err != nil {
		t.Fatal(err)
	}
	f("{remove: {json: [a]}, max_body: 4KiB}", json, string(bomb), 413, "too large", "Content-Encoding: gzip")
}

func TestEncodedBody(t *testing.T) {
	w := policytest.New(t, "")
	for _, c := range []coding.Coding{coding.Gzip, coding.Brotli, coding.Zstd} {
		e := coding.NewEncoder(c)
		body, err := e.Encode([]byte(`{"a":1,"b":2}`), false, true)
		if err != nil {
			t.Fatal(err)
		}
		x := posted(w, "application/problem+json", string(body), "Content-Encoding: "+c.String(), "Content-Digest: x")
		e.Release()
		if err := w.MustBuild(t, Definition, "remove: {json: [a]}").Request(x); err != nil {
			t.Fatal(c, err)
		}
		if string(x.Body) != `{"b":2}` || !x.ToBackend.Replaces([]byte("Content-Encoding")) || !x.ToBackend.Replaces([]byte("Content-Digest")) {
			t.Errorf("%v: %s %v", c, x.Body, x.ToBackend.List())
		}
		_ = x.Close()
	}
}

// A body of another type, and none, pass untouched; header and query are changed all the same.
func TestOtherBodies(t *testing.T) {
	w := policytest.New(t, "")
	h := w.MustBuild(t, Definition, "{remove: {json: [a], headers: [X-A]}}")
	x := posted(w, "text/plain", `{"a":1}`, "X-A: 1")
	defer x.Close()
	if err := h.Request(x); err != nil || x.Body != nil || !x.ToBackend.Replaces([]byte("X-A")) {
		t.Error(err, x.Body)
	}
	empty := posted(w, "application/json", "")
	defer empty.Close()
	if err := h.Request(empty); err != nil {
		t.Error(err)
	}
	w.NoAllocations(t, "without a body", func(x *exchange.Exchange) {
		if err := h.Request(x); err != nil {
			t.Fatal(err)
		}
	}, "X-A: 1", "Content-Type: application/json")
}
