package graphql_test

import (
	"encoding/json"
	"net/url"
	"strings"
	"testing"
)

// What GraphQL over HTTP says of requests and answers, as the audit of npm's graphql-http checks it and beyond: the names are its ids.
func TestGraphQLOverHTTP(t *testing.T) {
	endpoint := facade(t, newBackend(t), "")
	const (
		jsonType = "application/json"
		newType  = "application/graphql-response+json"
		ok       = `{"query":"{ __typename }"}`
	)
	cases := 0
	f := func(id, method, target, body string, status int, media string, data bool, headers ...string) {
		t.Helper()
		cases++
		got, text, head := do(t, method, endpoint+target, body, headers...)
		if got != status {
			t.Errorf("%s: %s %s %s %v: status %d %s, want %d", id, method, target, body, headers, got, text, status)
			return
		}
		if media != "" && head.Get("Content-Type") != media+"; charset=utf-8" {
			t.Errorf("%s: Content-Type %q, want %s", id, head.Get("Content-Type"), media)
		}
		if method == "HEAD" || media == "" {
			return
		}
		var result map[string]json.RawMessage
		if err := json.Unmarshal([]byte(text), &result); err != nil {
			t.Errorf("%s: %s: %v", id, text, err)
		}
		if _, has := result["data"]; has != data {
			t.Errorf("%s: data is %v, want %v: %s", id, has, data, text)
		}
		if _, has := result["errors"]; has == data {
			t.Errorf("%s: errors is %v: %s", id, has, text)
		}
	}
	post := func(id, body string, status int, media string, data bool, headers ...string) {
		t.Helper()
		f(id, "POST", "", body, status, media, data, append([]string{"Content-Type: application/json"}, headers...)...)
	}
	get := func(id, method string, status int, media string, data bool, accept string, parameters ...string) {
		t.Helper()
		q := url.Values{}
		for i := 0; i < len(parameters); i += 2 {
			q.Add(parameters[i], parameters[i+1])
		}
		f(id, method, "?"+q.Encode(), "", status, media, data, "Accept: "+accept)
	}

	// Media types.
	post("22EB", ok, 200, newType, true, "Accept: "+newType)
	post("4655", ok, 200, jsonType, true, "Accept: "+jsonType)
	post("47DE", ok, 200, jsonType, true, "Accept: */*")
	post("80D8", ok, 200, jsonType, true)
	post("application", ok, 200, jsonType, true, "Accept: application/*")
	post("weights", ok, 200, newType, true, "Accept: application/json;q=0.5, application/graphql-response+json")
	post("order", ok, 200, newType, true, "Accept: application/graphql-response+json, application/json")
	post("order", ok, 200, jsonType, true, "Accept: application/json, application/graphql-response+json")
	post("charset", ok, 200, newType, true, "Accept: application/graphql-response+json; charset=utf-8, application/json; charset=utf-8")
	post("wildcard", ok, 200, newType, true, "Accept: text/html, application/json;q=0, */*;q=0.1")
	post("neither", ok, 406, "", false, "Accept: text/html")
	post("excluded", ok, 406, "", false, "Accept: application/json;q=0")
	f("BF61", "POST", "", `{"query":"{ __type(name: \"Run🏃Swim🏊\") { name } }"}`, 200, jsonType, true, "Content-Type: application/json; charset=utf-8")
	f("charset", "POST", "", ok, 200, jsonType, true, `Content-Type: application/json; charset="UTF-8"`)
	f("charset", "POST", "", ok, 415, "", false, "Content-Type: application/json; charset=utf-16")
	f("9ABE", "POST", "", ok, 415, "", false)
	f("form", "POST", "", "query=%7B__typename%7D", 415, "", false, "Content-Type: application/x-www-form-urlencoded")
	f("text", "POST", "", ok, 415, "", false, "Content-Type: text/plain")
	f("coded", "POST", "", ok, 415, "", false, "Content-Type: application/json", "Content-Encoding: gzip")
	post("utf-8", "{\"query\":\"{ __typename } # \xff\"}", 400, jsonType, false)

	// Methods.
	get("5A70", "GET", 200, jsonType, true, "*/*", "query", "{ __typename }")
	get("HEAD", "HEAD", 200, jsonType, true, "*/*", "query", "{ __typename }")
	get("9C48", "GET", 405, "", false, newType, "query", "mutation { __typename }")
	get("9C48", "GET", 405, "", false, jsonType, "query", "query Q { __typename } mutation M { __typename }", "operationName", "M")
	get("beside", "GET", 200, jsonType, true, jsonType, "query", "query Q { __typename } mutation M { __typename }", "operationName", "Q")
	for _, method := range []string{"PUT", "DELETE", "PATCH"} {
		f(method, method, "", ok, 405, "", false, "Content-Type: application/json")
	}
	if _, _, head := do(t, "PUT", endpoint, ok); head.Get("Allow") != "GET, POST" {
		t.Errorf("Allow: %q", head.Get("Allow"))
	}
	if _, _, head := do(t, "GET", endpoint+"?query=mutation%7B__typename%7D", ""); head.Get("Allow") != "POST" {
		t.Errorf("Allow: %q", head.Get("Allow"))
	}
	post("POST mutation", `{"query":"mutation { __typename }"}`, 200, jsonType, true)

	// Parameters of a GET.
	const typed = `query Type($name: String!) { __type(name: $name) { name } }`
	get("D6D5", "GET", 200, newType, true, newType, "query", typed, "variables", `{"name":"User"}`)
	get("6A70", "GET", 200, jsonType, true, jsonType, "query", typed, "variables", `{"name":"User"}`)
	get("missing", "GET", 400, newType, false, newType)
	get("empty", "GET", 400, jsonType, false, jsonType, "query", "")
	get("variables", "GET", 400, jsonType, false, jsonType, "query", typed, "variables", `{"name"`)
	get("variables", "GET", 400, jsonType, false, jsonType, "query", typed, "variables", `["name"]`)
	get("null", "GET", 200, jsonType, true, jsonType, "query", "{ __typename }", "variables", `null`, "extensions", "null")
	get("extensions", "GET", 400, jsonType, false, jsonType, "query", "{ __typename }", "extensions", `7`)
	get("twice", "GET", 400, jsonType, false, jsonType, "query", "{ __typename }", "query", "{ b: __typename }")

	// Parameters of a POST.
	f("A5BF", "POST", "", "", 400, jsonType, false, "Content-Type: application/json")
	for _, accept := range []string{newType, jsonType} {
		a := "Accept: " + accept
		post("423L", `{"notquery":"{ __typename }"}`, 400, accept, false, a)
		post("8764", `{"qeury":"{ __typename }"}`, 400, accept, false, a)
		for _, invalid := range []string{`{"a":"b"}`, `0`, `false`, `["array"]`} {
			post("LKJ", `{"query":`+invalid+`}`, 400, accept, false, a)
			post("6C0", `{"query":"{ __typename }","operationName":`+invalid+`}`, 400, accept, false, a)
		}
		for _, invalid := range []string{`"string"`, `0`, `false`, `["array"]`} {
			post("476", `{"query":"{ __typename }","variables":`+invalid+`}`, 400, accept, false, a)
			post("58B", `{"query":"{ __typename }","extensions":`+invalid+`}`, 400, accept, false, a)
		}
		post("34A2 13EE", ok, 200, accept, true, a)
		post("8161 B8B3", `{"operationName":"Query","query":"query Query { __typename }"}`, 200, accept, true, a)
		for _, parameter := range []string{"variables", "operationName", "extensions"} {
			post("94B 022", `{"query":"{ __typename }","`+parameter+`":null}`, 200, accept, true, a)
		}
		post("2EA1 28B9", `{"query":"`+typed+`","variables":{"name":"sometype"}}`, 200, accept, true, a)
		post("428F 1B7A", `{"query":"{ __typename }","extensions":{"some":"value"}}`, 200, accept, true, a)
		post("BCF8 B7N8", `{ "not a JSON`, 400, accept, false, a)
		post("trailing", ok+ok, 400, accept, false, a)
		post("batch", "["+ok+"]", 400, accept, false, a)

		// Nothing was carried out: that is 400 in the new form, and 200 in the old.
		status := map[string]int{newType: 400, jsonType: 200}[accept]
		post("572B 865D 556A D586", `{"query":"{"}`, status, accept, false, a)
		post("FDE2 51FE 74FF 5E5B", `{"query":"{ 8f31403dfe404bccbb0e835f2629c6a7 }"}`, status, accept, false, a)
		post("validation", `{"query":"{ f31403dfe404bccbb0e835f2629c6a7 }"}`, status, accept, false, a)
		post("7B9B 86EE", `{"query":"query CoerceFailure($id: ID!){ __typename }","variables":{"id":null}}`, status, accept, false, a)
		post("coercion", `{"query":"query Q($id: Int!){ bump: __typename @include(if: true) users(first: $id) { id } }","variables":{"id":"7"}}`, status, accept, false, a)
		post("operation", `{"query":"query A { __typename } query B { __typename }"}`, status, accept, false, a)
		post("operation", `{"query":"query A { __typename }","operationName":"C"}`, status, accept, false, a)
	}
	post("too large", `{"query":"`+strings.Repeat("#", 2<<20)+`"}`, 413, "", false)
	if cases < 60 {
		t.Errorf("%d cases", cases)
	}
	t.Logf("%d cases", cases)
}
