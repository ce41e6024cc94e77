package responsetransform

import (
	"testing"

	"sluice/gateway/coding"
	"sluice/gateway/exchange"
	"sluice/gateway/policy/policytest"
)

func TestBody(t *testing.T) {
	w := policytest.New(t, "")
	f := func(settings string, status int, contentType, body, wantHead, want string, wantStatus int, headers ...string) {
		t.Helper()
		x := w.Exchange("/users", "X-Tenant: acme")
		defer x.Close()
		h := w.MustBuild(t, Definition, settings)
		if h.Request != nil {
			if err := h.Request(x); err != nil || !x.ToBackend.Replaces([]byte("Accept-Encoding")) || !x.ToBackend.Replaces([]byte("Range")) {
				t.Error(err)
			}
		}
		fill(x, append([]string{"Content-Type: " + contentType}, headers...)...)
		x.Response.SetStatusCode(status)
		x.Response.SetBodyRaw([]byte(body))
		if err := h.Response(x); err != nil {
			x.Render(err)
		}
		if got := left(x); got != wantHead && x.Reject == nil || string(x.Response.Body()) != want && x.Reject == nil || x.Response.StatusCode() != wantStatus {
			t.Errorf("%s of %s:\ngot  %d %s %s\nwant %d %s %s", settings, body, x.Response.StatusCode(), got, x.Response.Body(), wantStatus, wantHead, want)
		}
	}
	const json = "Content-Type=application/json"
	f("{remove: {json: [a]}, add: {json: {b: '${header.x-tenant}'}}}", 200, "application/json", `{"a":1}`, json, `{"b":"acme"}`, 200)
	f("remove: {json: [a]}", 200, "text/html", `{"a":1}`, "Content-Type=text/html", `{"a":1}`, 200)
	f("remove: {json: [a]}", 200, "application/json", `{"a":1}`, json+` ETag=W/"x"`, `{}`, 200, `ETag: "x"`, "Accept-Ranges: bytes", "Content-MD5: y")
	f("remove: {json: [a]}", 200, "application/json", `{"a":1`, "", "", 502)
	f("{remove: {json: [a]}, unreadable: pass}", 200, "application/json", `{"a":1`, json, `{"a":1`, 200)
	f("remove: {json: [a]}", 206, "application/json", `{"a":1}`, "", "", 502)
	f("{remove: {json: [a]}, max_body: 6}", 200, "application/json", `{"a":1}`, "", "", 502)
	f("{remove: {json: [a]}, max_body: 7}", 200, "application/json", `{"a":1}`, json, `{}`, 200)
	f("remove: {json: [a]}", 200, "application/json", `{"a":1}`, "", "", 502, "Content-Encoding: compress")
	f("remove: {json: [a]}", 200, "application/json", ``, json, ``, 200)
	f("convert: {from: xml, to: json}", 200, "text/xml", `<a b="1"/>`, json, `{"a":{"@b":"1"}}`, 200)
	f("convert: {from: json, to: form}", 200, "application/json", `{"a":1}`, "Content-Type=application/x-www-form-urlencoded", `a=1`, 200)
	const envelope = `<s:Envelope xmlns:s="x"><s:Body>`
	const end = `</s:Body></s:Envelope>`
	f("convert: {from: soap, to: json}", 200, "text/xml", envelope+`<r><n>1</n></r>`+end, json, `{"n":"1"}`, 200)
	f("convert: {from: soap, to: json}", 200, "text/xml", envelope+`<s:Fault><faultcode>c</faultcode><faultstring>m</faultstring></s:Fault>`+end, json, `{"fault":{"code":"c","message":"m"}}`, 500)
	f("{convert: {from: soap, to: json}, status: {500: 422}}", 500, "text/xml", envelope+`<s:Fault><faultcode>c</faultcode><faultstring>m</faultstring></s:Fault>`+end, json, `{"fault":{"code":"c","message":"m"}}`, 422)
	f("status: {404: 200, 200: 404}", 404, "text/plain", "x", "Content-Type=text/plain", "x", 200)
	f("status: {404: 200, 200: 404}", 200, "text/plain", "x", "Content-Type=text/plain", "x", 404)
	f("status: {404: 200}", 403, "text/plain", "x", "Content-Type=text/plain", "x", 403)
}

func TestEncodedBody(t *testing.T) {
	w := policytest.New(t, "")
	h := w.MustBuild(t, Definition, "remove: {json: [a]}")
	e := coding.NewEncoder(coding.Brotli)
	defer e.Release()
	coded, err := e.Encode([]byte(`{"a":1}`), false, true)
	if err != nil {
		t.Fatal(err)
	}
	x := w.Exchange("/")
	defer x.Close()
	fill(x, "Content-Type: application/json", "Content-Encoding: br")
	x.Response.SetBodyRaw(coded)
	if err := h.Response(x); err != nil || string(x.Response.Body()) != "{}" || len(x.ResponseHeader("Content-Encoding")) > 0 {
		t.Errorf("%s %v", x.Response.Body(), err)
	}
}

// The gateway's own refusals keep their status and their body.
func TestRejectionsKeepTheirStatus(t *testing.T) {
	w := policytest.New(t, "")
	h := w.MustBuild(t, Definition, "{status: {502: 200}, remove: {json: [status]}}")
	x := w.Exchange("/")
	defer x.Close()
	x.Render(exchange.NewReject(502, "upstream_connect", "no"))
	if err := h.Response(x); err != nil || x.Response.StatusCode() != 502 {
		t.Error(err, x.Response.StatusCode())
	}
}
