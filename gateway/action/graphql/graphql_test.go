package graphql_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"sluice/config"
	"sluice/gateway"
	"sluice/gateway/action"
	"sluice/gateway/action/actiontest"
	"sluice/gateway/action/graphql"
	"sluice/gateway/snapshot"
)

func TestSettings(t *testing.T) {
	w := actiontest.New(t, `
services:
  rest: {endpoints: ["http://127.0.0.1:1"]}
  gql: {protocol: graphql, endpoints: ["http://127.0.0.1:1"]}
`)
	w.Files(t, graphql.Definition)
}

// backend is the REST service behind the schema of testdata, and remembers what it was asked.
type backend struct {
	*httptest.Server
	mu    sync.Mutex
	asked []string
	bumps int
	left  atomic.Int64 // clients that went away while they waited
}

func newBackend(t *testing.T) *backend {
	b := &backend{}
	b.Server = httptest.NewServer(b)
	t.Cleanup(b.Close)
	return b
}

const users = `{"1": {"id": 1, "name": "Ann", "age": 31, "score": 1.50, "admin": true, "role": "ADMIN", "created": "2026-01-01", "address": {"city": "Ulm"},
  "tags": ["a", null], "friends": [{"id": "2", "name": "Bob", "friends": []}, {"id": "3", "name": null, "friends": []}], "boss": {"id": "9", "name": null}},
 "2": {"id": "2", "name": "Bob", "age": "old", "friends": [{"id": "1", "name": "Ann", "friends": []}]}}`

func (b *backend) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, _ := io.ReadAll(r.Body)
	b.mu.Lock()
	b.asked = append(b.asked, strings.TrimSpace(r.Method+" "+r.URL.String()+" "+string(body)))
	b.mu.Unlock()
	var all map[string]json.RawMessage
	_ = json.Unmarshal([]byte(users), &all)
	w.Header().Set("Content-Type", "application/json")
	id := r.URL.Path[strings.LastIndexByte(r.URL.Path, '/')+1:]
	switch {
	case r.Method == "POST" && r.URL.Path == "/users":
		_, _ = w.Write(append(append([]byte(`{"id": "5", "friends": [], `), bytes.TrimLeft(body, "{")...), '\n'))
	case r.URL.Path == "/bump":
		b.mu.Lock()
		b.bumps++
		_, _ = fmt.Fprint(w, b.bumps)
		b.mu.Unlock()
	case r.URL.Path == "/users":
		_, _ = fmt.Fprintf(w, "[%s, %s]", all["1"], all["2"])
	case strings.HasPrefix(r.URL.Path, "/users/"):
		if u := all[id]; u != nil {
			_, _ = w.Write(u)
			return
		}
		if id == "500" {
			w.WriteHeader(500)
			return
		}
		http.NotFound(w, r)
	case r.URL.Path == "/orders":
		_, _ = fmt.Fprint(w, `[{"id": "o1", "total": 3, "owner": 1}, {"id": "o2", "total": 4.5, "owner": 2}, {"id": "o3", "total": 5, "owner": 1}]`)
	case strings.HasPrefix(r.URL.Path, "/nodes/"):
		_, _ = fmt.Fprint(w, `{"__typename": "Order", "id": "o1", "total": 3}`)
	case r.URL.Path == "/search":
		_, _ = fmt.Fprint(w, `[{"__typename": "User", "id": "1", "name": "Ann"}, {"__typename": "Order", "id": "o1", "total": 3}]`)
	case r.URL.Path == "/slow":
		<-r.Context().Done()
		b.left.Add(1)
	case r.URL.Path == "/garbage":
		_, _ = fmt.Fprint(w, `{"id": `)
	default:
		http.NotFound(w, r)
	}
}

// calls returns what was asked since the last time.
func (b *backend) calls() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	asked := b.asked
	b.asked = nil
	return asked
}

func start(t *testing.T, text string) string {
	t.Helper()
	g := gateway.New(gateway.Options{Registry: snapshot.NewRegistry(nil, []*action.Definition{graphql.Definition})})
	t.Cleanup(func() { g.Shutdown(t.Context()) })
	c, err := config.Parse("test.yaml", []byte("listeners: {main: {address: \"127.0.0.1:0\"}}\n"+text), config.Options{})
	if err != nil {
		t.Fatal(err)
	}
	if err := g.Apply(c); err != nil {
		t.Fatal(err)
	}
	return "http://" + g.Listeners()[0].Address
}

// facade starts the schema of testdata with its resolvers, and further settings, over a backend.
func facade(t *testing.T, b *backend, settings string) string {
	t.Helper()
	resolvers, err := os.ReadFile("testdata/valid-resolvers.yaml")
	if err != nil {
		t.Fatal(err)
	}
	block := strings.ReplaceAll(strings.TrimSpace(settings+"\n"+string(resolvers)), "\n", "\n      ")
	return start(t, "services: {rest: {endpoints: [\""+b.URL+"\"]}}\nroutes:\n  api:\n    match: {paths: [/graphql]}\n    graphql:\n      "+block+"\n") + "/graphql"
}

func do(t *testing.T, method, url, body string, headers ...string) (int, string, http.Header) {
	t.Helper()
	req, err := http.NewRequest(method, url, strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	for _, h := range headers {
		name, value, _ := strings.Cut(h, ": ")
		req.Header.Set(name, value)
	}
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	got, err := io.ReadAll(res.Body)
	if err != nil {
		t.Fatal(err)
	}
	return res.StatusCode, string(got), res.Header
}

// ask posts an operation and returns the answer.
func ask(t *testing.T, url, query string, variables ...string) string {
	t.Helper()
	text, _ := json.Marshal(query)
	body := `{"query":` + string(text)
	if len(variables) > 0 {
		body += `,"variables":` + variables[0]
	}
	_, got, _ := do(t, "POST", url, body+"}", "Content-Type: application/json")
	return got
}

func TestResolvers(t *testing.T) {
	b := newBackend(t)
	url := facade(t, b, "")
	f := func(query, want string, variables ...string) {
		t.Helper()
		if got := ask(t, url, query, variables...); got != want {
			t.Errorf("%s:\n got %s\nwant %s", query, got, want)
		}
	}
	f(`{ user(id: 1) { id name age score admin role created address { city } } }`,
		`{"data":{"user":{"id":"1","name":"Ann","age":31,"score":1.50,"admin":true,"role":"ADMIN","created":"2026-01-01","address":{"city":"Ulm"}}}}`)
	f(`query Q($id: ID!) { user(id: $id) { ...F ... on Node { id } } } fragment F on User { name }`, `{"data":{"user":{"name":"Bob","id":"2"}}}`, `{"id": 2}`)
	f(`query Q($no: Boolean!) { user(id: 1) { name @skip(if: $no) id @include(if: $no) } }`, `{"data":{"user":{"id":"1"}}}`, `{"no": true}`)
	f(`{ user(id: 404) { name } }`, `{"data":{"user":null}}`)
	f(`{ node(id: 7) { __typename id ... on Order { total } ... on User { name } } }`, `{"data":{"node":{"__typename":"Order","id":"o1","total":3}}}`)
	f(`{ search(q: "a&b") { __typename ... on User { name } ... on Order { total } } }`,
		`{"data":{"search":[{"__typename":"User","name":"Ann"},{"__typename":"Order","total":3}]}}`)
	b.calls()
	f(`{ search(q: "a&b=c#") { __typename } }`, `{"data":{"search":[{"__typename":"User"},{"__typename":"Order"}]}}`)
	if got := b.calls(); len(got) != 1 || got[0] != "GET /search?q=a%26b%3Dc%23" {
		t.Errorf("%q", got)
	}
	f(`{ users(ids: ["1", "2"]) { id } }`, `{"data":{"users":[{"id":"1"},{"id":"2"}]}}`)
	if got := b.calls(); len(got) != 1 || got[0] != "GET /users?ids=1&ids=2&limit=2" {
		t.Errorf("%q", got)
	}
	f(`mutation { a: createUser(input: {name: "Cleo"}) { id name role } b: bump(by: 1) c: bump(by: 1) }`,
		`{"data":{"a":{"id":"5","name":"Cleo","role":"READER"},"b":1,"c":2}}`)
	if got := b.calls(); len(got) != 3 || got[0] != `POST /users {"by":"gateway","name":"Cleo","role":"READER"}` || got[1] != `POST /bump {"by":1}` {
		t.Errorf("%q", got)
	}
	f(`{ me { name } }`, `{"data":{"me":null},"errors":[{"message":"a value that the path of a call needs is missing","locations":[{"line":1,"column":3}],"path":["me"],"extensions":{"code":"BAD_USER_INPUT"}}]}`)
	f(`{ __schema { queryType { name } } __type(name: "Role") { kind enumValues { name } } }`,
		`{"data":{"__schema":{"queryType":{"name":"Query"}},"__type":{"kind":"ENUM","enumValues":[{"name":"ADMIN"},{"name":"READER"}]}}}`)
	f(`{ __type(name: "NewUser") { inputFields { name defaultValue type { kind name ofType { name } } } } }`,
		`{"data":{"__type":{"inputFields":[{"name":"name","defaultValue":null,"type":{"kind":"NON_NULL","name":null,"ofType":{"name":"String"}}},{"name":"role","defaultValue":"READER","type":{"kind":"ENUM","name":"Role","ofType":null}},{"name":"age","defaultValue":null,"type":{"kind":"SCALAR","name":"Int","ofType":null}}]}}}`)
}

func TestNullPropagation(t *testing.T) {
	b := newBackend(t)
	url := facade(t, b, "")
	f := func(query, data string, paths ...string) {
		t.Helper()
		var got struct {
			Data   json.RawMessage
			Errors []struct {
				Path      []any
				Message   string
				Locations []struct{ Line, Column int }
			}
		}
		if err := json.Unmarshal([]byte(ask(t, url, query)), &got); err != nil {
			t.Fatal(err)
		}
		if string(got.Data) != data || len(got.Errors) != len(paths) {
			t.Errorf("%s: %s %v, want %s and %d errors", query, got.Data, got.Errors, data, len(paths))
			return
		}
		for i, want := range paths {
			if path, _ := json.Marshal(got.Errors[i].Path); string(path) != want || len(got.Errors[i].Locations) != 1 {
				t.Errorf("%s: error %d at %s, want %s: %v", query, i, path, want, got.Errors[i])
			}
		}
	}
	f(`{ user(id: 1) { name boss { name } } }`, `{"user":{"name":"Ann","boss":null}}`, `["user","boss","name"]`)
	f(`{ user(id: 1) { tags } }`, `{"user":{"tags":null}}`, `["user","tags",1]`)
	f(`{ user(id: 1) { friends { name } } a: user(id: 2) { name } }`, `{"user":null,"a":{"name":"Bob"}}`, `["user","friends",1,"name"]`)
	f(`{ a: user(id: 2) { name } strict(id: 404) { name } }`, `null`, `["strict"]`)
	f(`{ user(id: 2) { age } }`, `{"user":{"age":null}}`, `["user","age"]`)
	f(`{ garbage { id } user(id: 500) { id } }`, `{"garbage":null,"user":null}`, `["garbage"]`, `["user"]`)
}

func TestCallsAreSharedAndBatched(t *testing.T) {
	b := newBackend(t)
	url := facade(t, b, "")
	f := func(query string, want ...string) string {
		t.Helper()
		b.calls()
		answer := ask(t, url, query)
		if got := b.calls(); strings.Join(got, "\n") != strings.Join(want, "\n") {
			t.Errorf("%s: asked %q, want %q: %s", query, got, want, answer)
		}
		return answer
	}
	f(`{ a: user(id: 1) { name } b: user(id: 1) { id } c: strict(id: "1") { age } }`, "GET /users/1")
	got := f(`{ users { id orders { id } } }`, "GET /users?limit=2", "GET /orders?owners=1%2C2")
	if want := `{"data":{"users":[{"id":"1","orders":[{"id":"o1"},{"id":"o3"}]},{"id":"2","orders":[{"id":"o2"}]}]}}`; got != want {
		t.Errorf("%s", got)
	}
	f(`{ users { friends { id orders { total } } orders { total } } }`, "GET /users?limit=2", "GET /orders?owners=2%2C3%2C1")
	f(`{ users { a: orders(status: "open") { id } } }`, "GET /users?limit=2", "GET /orders?owners=1%2C2&status=open")
}

func TestPathsStayInTheirSegment(t *testing.T) {
	b := newBackend(t)
	url := facade(t, b, "")
	for _, id := range []string{"..", ".", "a/b", "../admin", `a\\b`, "", "..;x=1", "a\u0000"} {
		b.calls()
		text, _ := json.Marshal(id)
		got := ask(t, url, `query($id: ID!) { user(id: $id) { id } }`, `{"id": `+string(text)+`}`)
		if asked := b.calls(); len(asked) > 0 || !strings.Contains(got, "BAD_USER_INPUT") {
			t.Errorf("%q: asked %q, answered %s", id, asked, got)
		}
	}
	ask(t, url, `{ user(id: "a?b#c%2f") { id } }`)
	if got := b.calls(); len(got) != 1 || got[0] != "GET /users/a%3Fb%23c%252f" {
		t.Errorf("%q", got)
	}
}

func TestLimits(t *testing.T) {
	b := newBackend(t)
	f := func(settings, query, code string) {
		t.Helper()
		b.calls()
		url := facade(t, b, settings)
		got := ask(t, url, query)
		if refused := strings.Contains(got, code); !refused || code != "" && (strings.Contains(got, `"data"`) || len(b.calls()) > 0) {
			t.Errorf("%s: %s: %s, want %q", settings, query, got, code)
		}
	}
	deep := `{ user(id: 1) { friends { friends { id } } } }`
	f("max_depth: 3", deep, "GRAPHQL_DEPTH")
	f("max_depth: 4", deep, "")
	f("max_depth: 3", `{ user(id: 1) { ...A } } fragment A on User { friends { ...B } } fragment B on User { friends { id } }`, "GRAPHQL_DEPTH")
	f("max_aliases: 1", `{ a: user(id: 1) { id } b: user(id: 2) { id } }`, "GRAPHQL_ALIASES")
	f("max_cost: 100", deep, "GRAPHQL_COST")
	f("max_cost: 120", deep, "")
	f("max_cost: 20", `{ users(first: 20) { id } }`, "GRAPHQL_COST")
	f("max_cost: 21", `{ users(first: 20) { id } }`, "")
	f("introspection: false", `{ __schema { types { name } } }`, "GRAPHQL_INTROSPECTION")
	f("introspection: false", `{ usr(id: 1) { id } }`, "GRAPHQL_VALIDATION_FAILED")
	f("max_tokens: 20", deep+strings.Repeat(" # \n{ a }", 5), "GRAPHQL_PARSE_FAILED")
	// Validation compares fields of the same key with each other: these would take it seconds.
	f("", "{ user(id: 1) { "+strings.Repeat("name ", 4900)+"} }", "GRAPHQL_CROWDED")
	f("", "{ user(id: 1) { "+strings.Repeat("name ", 400)+"} }", "")
	// Fragments that double with each other are measured once each.
	bomb := `{ user(id: 1) { ...F0 } } `
	for i := range 40 {
		bomb += fmt.Sprintf("fragment F%d on User { a: friends { ...F%d } b: friends { ...F%d } } ", i, i+1, i+1)
	}
	f("max_depth: 0\nmax_cost: 0", bomb+"fragment F40 on User { id }", "GRAPHQL_ALIASES")
	f("max_depth: 0\nmax_aliases: 0\nmax_tokens: 100", bomb+"fragment F40 on User { id }", "GRAPHQL_PARSE_FAILED")
	url := facade(t, b, "max_calls: 2")
	if got := ask(t, url, `{ a: user(id: 1) { id } b: user(id: 2) { id } c: user(id: 3) { id } }`); !strings.Contains(got, "TOO_MANY_CALLS") || len(b.calls()) != 2 {
		t.Error(got)
	}
	url = facade(t, b, "max_answer: 100B")
	if got := ask(t, url, `{ user(id: 1) { id } }`); !strings.Contains(got, "ANSWER_TOO_LARGE") {
		t.Error(got)
	}
	url = facade(t, b, "timeout: 200ms")
	if got := ask(t, url, `{ slow { id } user(id: 1) { id } }`); !strings.Contains(got, `"data":{"slow":null,"user":{"id":"1"}}`) {
		t.Error(got)
	}
}

func TestPersisted(t *testing.T) {
	const query = `query Known { user(id: 1) { name } }`
	sum := sha256.Sum256([]byte(query))
	hash := hex.EncodeToString(sum[:])
	file := filepath.Join(t.TempDir(), "operations.json")
	if err := os.WriteFile(file, []byte(`{"`+hash+`": "`+query+`"}`), 0o600); err != nil {
		t.Fatal(err)
	}
	b := newBackend(t)
	extension := `"extensions":{"persistedQuery":{"version":1,"sha256Hash":"` + hash + `"}}`
	f := func(url, body, want string) {
		t.Helper()
		if _, got, _ := do(t, "POST", url, body, "Content-Type: application/json"); !strings.Contains(got, want) {
			t.Errorf("%s: %s, want %s", body, got, want)
		}
	}
	only := facade(t, b, "persisted: "+file+"\npersisted_only: true")
	f(only, "{"+extension+"}", `"name":"Ann"`)
	f(only, `{"query":"`+query+`"}`, "PERSISTED_QUERY_ONLY")
	f(only, `{"extensions":{"persistedQuery":{"version":1,"sha256Hash":"`+strings.Repeat("0", 64)+`"}}}`, "PERSISTED_QUERY_ONLY")

	automatic := facade(t, b, "automatic_persisted: true")
	f(automatic, "{"+extension+"}", "PersistedQueryNotFound")
	f(automatic, `{"query":"{ me { id } }",`+extension+"}", "is not that of the query")
	f(automatic, `{"query":"`+query+`",`+extension+"}", `"name":"Ann"`)
	f(automatic, "{"+extension+"}", `"name":"Ann"`)
	f(facade(t, b, ""), "{"+extension+"}", "PersistedQueryNotSupported")
	f(automatic, `{"extensions":{"persistedQuery":{"version":2}}}`, "extensions.persistedQuery has to be")
}

// gql is a GraphQL service that tells what it was sent.
func gql(t *testing.T, answer func(query string) (int, string)) (url string, sent func() []string) {
	var mu sync.Mutex
	var seen []string
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		mu.Lock()
		seen = append(seen, strings.TrimSpace(r.Method+" "+r.URL.RequestURI()+" "+string(body)))
		mu.Unlock()
		w.Header().Set("Content-Type", "application/json")
		status, text := answer(string(body))
		w.WriteHeader(status)
		_, _ = io.WriteString(w, text)
	}))
	t.Cleanup(s.Close)
	return s.URL, func() []string {
		mu.Lock()
		defer mu.Unlock()
		out := seen
		seen = nil
		return out
	}
}

func TestStoredOperation(t *testing.T) {
	reply := `{"data":{"user":{"name":"Ann"}}}`
	status := 200
	backend, sent := gql(t, func(string) (int, string) { return status, reply })
	url := start(t, `
services: {gql: {protocol: graphql, endpoints: ["`+backend+`"]}}
routes:
  user:
    match: {paths: ["/users/{id}"], methods: [GET]}
    graphql:
      service: gql
      operation: 'query User($id: ID!, $n: Int, $tags: [String!]) { user(id: $id, n: $n, tags: $tags) { name } }'
      variables: {id: "${path.id}", n: "${query.n}", tags: "${header.X-Tags}"}
      extract: user
      error_statuses: {GONE: 410}
  create:
    match: {paths: ["/users"], methods: [POST]}
    graphql: {service: gql, operation: 'mutation($u: NewUser!) { user: create(u: $u) { name } }', variables: {u: "${body.user}"}, extract: user}
`)
	f := func(method, path, body string, wantStatus int, want string, headers ...string) {
		t.Helper()
		got, text, _ := do(t, method, url+path, body, headers...)
		if got != wantStatus || !strings.Contains(text, want) {
			t.Errorf("%s %s: %d %s, want %d %s", method, path, got, text, wantStatus, want)
		}
	}
	f("GET", "/users/7?n=3", "", 200, `{"name":"Ann"}`, "X-Tags: a,b")
	if got := sent(); len(got) != 1 || !strings.HasPrefix(got[0], "POST /graphql {") || !strings.HasSuffix(got[0], `"operationName":"User","variables":{"id":"7","n":3,"tags":["a","b"]}}`) {
		t.Errorf("%q", got)
	}
	f("GET", "/users/7?n=many", "", 400, "the value for n is not of the type Int")
	f("POST", "/users", `{"user": {"name": "Bo"}}`, 200, `{"name":"Ann"}`, "Content-Type: application/json")
	if got := sent(); len(got) != 1 || !strings.HasSuffix(got[0], `"variables":{"u":{"name":"Bo"}}}`) {
		t.Errorf("%q", got)
	}
	f("POST", "/users", `{"user": `, 400, "not valid JSON", "Content-Type: application/json")
	f("POST", "/users", `{}`, 400, "the value for u is missing", "Content-Type: application/json")
	f("POST", "/users", `user=1`, 415, "application/json", "Content-Type: application/x-www-form-urlencoded")
	for code, want := range map[string]int{"NOT_FOUND": 404, "UNAUTHENTICATED": 401, "FORBIDDEN": 403, "BAD_USER_INPUT": 400, "GONE": 410, "INTERNAL": 502} {
		reply = `{"data":null,"errors":[{"message":"told","extensions":{"code":"` + code + `"}}]}`
		f("GET", "/users/7", "", want, `"status":`)
	}
	reply = `{"data":{"user":null}}`
	f("GET", "/users/7", "", 404, "nothing here")
	reply = `<html>`
	f("GET", "/users/7", "", 502, "valid GraphQL")
	status, reply = 500, `oops`
	f("GET", "/users/7", "", 502, "valid GraphQL")
}

func TestGuard(t *testing.T) {
	backend, sent := gql(t, func(string) (int, string) { return 200, `{"data":{"ok":true}}` })
	url := start(t, `
services: {gql: {protocol: graphql, endpoints: ["`+backend+`"]}}
routes:
  strict: {match: {paths: [/strict]}, graphql: {service: gql, schema: testdata/schema.graphql, max_depth: 3, introspection: false}}
  plain: {match: {paths: [/plain]}, service: gql}
`)
	f := func(path, body, want string) {
		t.Helper()
		sent()
		_, got, _ := do(t, "POST", url+path, body, "Content-Type: application/json")
		if !strings.Contains(got, want) || strings.Contains(got, `"ok"`) != (len(sent()) == 1) {
			t.Errorf("%s %s: %s, want %s", path, body, got, want)
		}
	}
	f("/strict", `{"query":"{ user(id: 1) { id } }"}`, `"ok":true`)
	f("/strict", `{"query":"{ user(id: 1) { nothing } }"}`, "GRAPHQL_VALIDATION_FAILED")
	f("/strict", `{"query":"{ user(id: 1) { friends { friends { id } } } }"}`, "GRAPHQL_DEPTH")
	f("/strict", `{"query":"query($id: ID!) { user(id: $id) { id } }"}`, "BAD_USER_INPUT")
	f("/plain", `{"query":"{ anything(of: \"it\") { is } }"}`, `"ok":true`)
	f("/plain", `{"query":"{ `+strings.Repeat("a { ", 16)+"a"+strings.Repeat(" }", 17)+`"}`, "GRAPHQL_DEPTH")
	f("/plain", `{"query":"{ ...A } fragment A on Q { a ...B } fragment B on Q { b { ...A } }"}`, "GRAPHQL_CYCLE")
	f("/plain", `{"query":"{"}`, "GRAPHQL_PARSE_FAILED")
	f("/plain", `[{"query":"{ a }"}]`, "lists of operations are not accepted")
	// What was checked is what is sent, whichever of two the service would have read.
	sent()
	do(t, "POST", url+"/plain", `{"query":"{ hidden }","query":"{ seen }","variables":{"a":1.50}}`, "Content-Type: application/json")
	if got := sent(); len(got) != 1 || got[0] != `POST /plain {"query":"{ seen }","variables":{"a":1.50}}` {
		t.Errorf("%q", got)
	}
	if status, _, _ := do(t, "GET", url+"/plain?x=1&query=%7B+a+%7D", ""); status != 200 {
		t.Error(status)
	}
	if got := sent(); len(got) != 1 || got[0] != "GET /plain?x=1&query=%7B%20a%20%7D" {
		t.Errorf("%q", got)
	}
	if status, got, _ := do(t, "GET", url+"/plain?query=%7B+a+%7D", "", "Connection: Upgrade", "Upgrade: websocket"); status != 400 {
		t.Error(status, got)
	}
}

func TestClientsDeadline(t *testing.T) {
	b := newBackend(t)
	url := facade(t, b, "timeout: 1h")
	_, got, _ := do(t, "POST", url, `{"query":"{ slow { id } }"}`, "Content-Type: application/json", "X-Request-Deadline: 0.2")
	if !strings.Contains(got, `"code":"TIMEOUT"`) {
		t.Error(got)
	}
	// The call that was given up ends, long before the service's own timeout.
	for began := time.Now(); b.left.Load() == 0; time.Sleep(10 * time.Millisecond) {
		if time.Since(began) > 10*time.Second {
			t.Fatal("the call goes on")
		}
	}
}
