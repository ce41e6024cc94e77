package convert

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"reflect"
	"strings"
	"testing"

	"sluice/gateway/document"
)

func checked(t testing.TB, src []byte) *document.Value {
	t.Helper()
	v, err := document.Check(src)
	if err != nil {
		t.Fatalf("%q: %v", src, err)
	}
	return v
}

func value(t testing.TB, src []byte) (v any) {
	t.Helper()
	d := json.NewDecoder(bytes.NewReader(src))
	d.UseNumber()
	if err := d.Decode(&v); err != nil {
		t.Fatalf("%s: %v", src, err)
	}
	return v
}

func TestXML(t *testing.T) {
	f := func(src, want string, lists ...string) {
		t.Helper()
		got, err := XMLToJSON(nil, []byte(src), &XMLOptions{Lists: lists})
		if err != nil || string(got) != want {
			t.Errorf("%s\ngot  %s %v\nwant %s", src, got, err, want)
			return
		}
		back, err := JSONToXML(nil, checked(t, got), &XMLOptions{})
		if err != nil {
			t.Errorf("%s: %v", got, err)
			return
		}
		again, err := XMLToJSON(nil, back, &XMLOptions{Lists: lists})
		if err != nil || !bytes.Equal(again, got) {
			t.Errorf("%s came back as %s: %v", got, back, err)
		}
	}
	f(`<a/>`, `{"a":""}`)
	f(`<?xml version="1.0" encoding="UTF-8"?><!-- c --><a>x &amp; &#233; <![CDATA[<y>]]></a>`, `{"a":"x & é <y>"}`)
	f(`<a b="1" c='"'/>`, `{"a":{"@b":"1","@c":"\""}}`)
	f("<a>\n <b>1</b>\n <b>2</b>\n <c/>\n</a>", `{"a":{"b":["1","2"],"c":""}}`)
	f(`<a><b>1</b></a>`, `{"a":{"b":["1"]}}`, "b")
	f(`<a x="y">text<b/></a>`, `{"a":{"@x":"y","#text":"text","b":""}}`)
	f(`<s:a xmlns:s="urn:x"><s:b s:c="1">2</s:b></s:a>`, `{"s:a":{"@xmlns:s":"urn:x","s:b":{"@s:c":"1","#text":"2"}}}`)
}

func TestXMLFailure(t *testing.T) {
	f := func(src, want string) {
		t.Helper()
		_, err := XMLToJSON(nil, []byte(src), &XMLOptions{})
		var s *document.SyntaxError
		if !errors.As(err, &s) || !strings.Contains(err.Error(), want) {
			t.Errorf("%.80s: %v, want %s", src, err, want)
		}
	}
	f(``, "ends early")
	f(`<a>`, "ends early")
	f(`<a></b>`, "did not begin")
	f(`<a/><b/>`, "a second root")
	f(`<a/>x`, "outside of the root")
	f(`<a b="1" b="2"/>`, "twice")
	f(`<a>&unknown;</a>`, "entity")
	f(`<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]><a>&x;</a>`, "document type")
	f(`<!DOCTYPE a><a/>`, "document type")
	f(`<?xml version="1.0" encoding="utf-16"?><a/>`, "UTF-8")
	f("<a>\xff</a>", "UTF-8")
	f("<a>\n\n<b></a>", "line 3")
	f(strings.Repeat("<a>", document.MaxDepth+1), "too deep")
	f("<a>"+strings.Repeat("<b/>", MaxElements)+"</a>", "too many")
}

func TestJSONToXML(t *testing.T) {
	f := func(src, root, want string) {
		t.Helper()
		got, err := JSONToXML(nil, checked(t, []byte(src)), &XMLOptions{Root: root})
		text := strings.TrimPrefix(string(got), "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n")
		if err != nil {
			text = err.Error()
		}
		if !strings.Contains(text, want) || err == nil && text != want {
			t.Errorf("%s: %s, want %s", src, text, want)
		}
	}
	f(` {"a": 1} `, "", `<a>1</a>`)
	f(`{"a":1,"b":true,"c":null}`, "", `<root><a>1</a><b>true</b><c/></root>`)
	f(`{"a":[1,{"b":2}]}`, "r", `<r><a>1</a><a><b>2</b></a></r>`)
	f(`[1,"<"]`, "", `<root><item>1</item><item>&lt;</item></root>`)
	f(`5`, "n", `<n>5</n>`)
	f(`{"a":{"@b":"x\"\n<","#text":"t","c":[]}}`, "", `<a b="x&#34;&#10;&lt;">t</a>`)
	f(`{"@a":1}`, "", `<root a="1"></root>`)
	f(`{"a b":1}`, "", "can not be the name")
	f(`{"a><x/><b":1}`, "", "can not be the name")
	f(`{"1a":1}`, "", "can not be the name")
	f(`{"a":{"@b c":1}}`, "", "can not be the name")
	f(`{"a":{"@b":{}}}`, "", "an attribute")
	f(`{"a":[[1]]}`, "", "directly in an array")
	f(`{"a":"\u0000"}`, "", "no place for")
}

func TestForm(t *testing.T) {
	f := func(src, want, back string) {
		t.Helper()
		got, err := FormToJSON(nil, []byte(src))
		if err != nil || string(got) != want {
			t.Errorf("%s: %s %v, want %s", src, got, err, want)
			return
		}
		if form, err := JSONToForm(nil, checked(t, got)); err != nil || string(form) != back {
			t.Errorf("%s: %s %v, want %s", got, form, err, back)
		}
	}
	f(``, `{}`, ``)
	f(`b=2&a=1`, `{"b":"2","a":"1"}`, `b=2&a=1`)
	f(`a=1&b=2&a=3`, `{"a":["1","3"],"b":"2"}`, `a=1&a=3&b=2`)
	f(`&a+b=%26%22&&c`, `{"a b":"&\"","c":""}`, `a+b=%26%22&c=`)
	g := func(src, want string) {
		t.Helper()
		if got, err := JSONToForm(nil, checked(t, []byte(src))); err == nil && string(got) != want || err != nil && want != "" {
			t.Errorf("%s: %s %v", src, got, err)
		}
	}
	g(`{"a":1.50,"b":true,"c":null,"d":[1,"x"]}`, "a=1.50&b=true&d=1&d=x")
	g(`{"a":{"b":1}}`, "")
	g(`{"a":[[1]]}`, "")
	g(`[1]`, "")
	for _, bad := range []string{"a=%zz", "%f=1", "a=%ff"} {
		if got, err := FormToJSON(nil, []byte(bad)); err == nil {
			t.Errorf("%s: %s", bad, got)
		}
	}
}

func TestSOAP(t *testing.T) {
	got, err := JSONToSOAP(nil, checked(t, []byte(`{"id":7,"tags":["a","b"]}`)), &SOAP{Operation: "GetUser", Namespace: "urn:users"})
	const want = `<soap:Envelope xmlns:soap="http://schemas.xmlsoap.org/soap/envelope/"><soap:Body><GetUser xmlns="urn:users"><id>7</id><tags>a</tags><tags>b</tags></GetUser></soap:Body></soap:Envelope>`
	if err != nil || !strings.HasSuffix(string(got), want) {
		t.Errorf("%s %v", got, err)
	}
	if got, err = JSONToSOAP(nil, checked(t, []byte(` { } `)), &SOAP{Operation: "Ping", Namespace: "urn:p", Version: "1.2"}); err != nil || !strings.Contains(string(got), `<Ping xmlns="urn:p"></Ping>`) || !strings.Contains(string(got), soap12) {
		t.Errorf("%s %v", got, err)
	}
	if _, err = JSONToSOAP(nil, checked(t, []byte(`[]`)), &SOAP{Operation: "Ping"}); err == nil {
		t.Error("an array passed for parameters")
	}
	f := func(body, want string, wantFault bool) {
		t.Helper()
		src := fmt.Sprintf(`<?xml version="1.0"?><s:Envelope xmlns:s="x"><s:Header><a/></s:Header><s:Body>%s</s:Body></s:Envelope>`, body)
		got, fault, err := SOAPToJSON(nil, []byte(src), &XMLOptions{Lists: []string{"tag"}})
		if err != nil || string(got) != want || fault != wantFault {
			t.Errorf("%s: %s %t %v", body, got, fault, err)
		}
	}
	f(`<m:GetUserResponse xmlns:m="urn:users"><m:name>Ada</m:name><tag>1</tag></m:GetUserResponse>`, `{"name":"Ada","tag":["1"]}`, false)
	f(`<m:PingResponse xmlns:m="urn:p"/>`, `{}`, false)
	f(``, `{}`, false)
	f(`<s:Fault><faultcode>s:Client</faultcode><faultstring>no such user</faultstring><detail><id>7</id></detail></s:Fault>`, `{"fault":{"code":"s:Client","message":"no such user","detail":{"id":"7"}}}`, true)
	f(`<s:Fault><s:Code><s:Value>s:Sender</s:Value></s:Code><s:Reason><s:Text xml:lang="en">no</s:Text></s:Reason></s:Fault>`, `{"fault":{"code":"s:Sender","message":"no"}}`, true)
	for _, bad := range []string{`<a/>`, `<Envelope/>`, `{}`} {
		if got, _, err := SOAPToJSON(nil, []byte(bad), &XMLOptions{}); err == nil {
			t.Errorf("%s: %s", bad, got)
		}
	}
}

// What XML can say of a JSON document comes back: all values as texts.
func TestXMLUndone(t *testing.T) {
	r := rand.New(rand.NewPCG(5, 6))
	var build func(depth int) any
	build = func(depth int) any {
		if depth == 0 || r.IntN(3) == 0 {
			return []string{"x", "é & <b>", "", "5", "\t\"'"}[r.IntN(5)]
		}
		m := map[string]any{}
		for range r.IntN(4) + 1 {
			name := []string{"a", "b-c", "d.e", "_f"}[r.IntN(4)]
			if r.IntN(4) == 0 {
				m["@"+name] = "v"
			} else if r.IntN(3) == 0 {
				m[name] = []any{build(depth - 1), build(depth - 1)}
			} else {
				m[name] = build(depth - 1)
			}
		}
		return m
	}
	for range 5000 {
		src, err := json.Marshal(map[string]any{"root": build(4)})
		if err != nil {
			t.Fatal(err)
		}
		there, err := JSONToXML(nil, checked(t, src), &XMLOptions{})
		if err != nil {
			t.Fatalf("%s: %v", src, err)
		}
		back, err := XMLToJSON(nil, there, &XMLOptions{})
		if err != nil || !reflect.DeepEqual(value(t, src), value(t, back)) {
			t.Fatalf("%s\nis %s\nand back %s: %v", src, there, back, err)
		}
	}
}

func FuzzXML(f *testing.F) {
	f.Add([]byte(`<a b="1">x<c/><c/></a>`))
	f.Fuzz(func(t *testing.T, src []byte) {
		got, err := XMLToJSON(nil, src, &XMLOptions{})
		if err != nil {
			return
		}
		_, _ = JSONToXML(nil, checked(t, got), &XMLOptions{})
	})
}
