package apidocs

import (
	"encoding/json"
	"strings"
	"testing"

	"sluice/gateway/policy"
)

const users = `{
	"openapi": "3.1.0", "info": {"title": "Users", "version": "2", "description": "<script>alert(1)</script>"},
	"security": [{"key": []}],
	"paths": {
		"/users/{id}": {
			"parameters": [{"name": "id", "in": "path", "required": true, "schema": {"type": "integer", "minimum": 1}}, {"$ref": "#/components/parameters/Lang"}],
			"get": {"operationId": "get", "summary": "one user", "responses": {"200": {"description": "it", "content": {"application/json": {"schema": {"$ref": "#/components/schemas/User"}}}}}},
			"delete": {"operationId": "delete", "security": [], "deprecated": true, "parameters": [{"name": "id", "in": "path", "required": true, "description": "own"}], "responses": {"204": {"description": "gone"}}}
		}
	},
	"components": {
		"parameters": {"Lang": {"name": "lang", "in": "query", "schema": {"type": "string", "enum": ["de", "en"]}}},
		"securitySchemes": {"key": {"type": "apiKey", "in": "header", "name": "X-API-Key"}},
		"schemas": {
			"User": {"type": "object", "required": ["name"], "properties": {"name": {"type": "string"}, "security": {"$ref": "#/components/schemas/Pet"}, "friends": {"type": "array", "items": {"$ref": "#/components/schemas/User"}}}},
			"Pet": {"oneOf": [{"$ref": "#/components/schemas/User"}], "discriminator": {"propertyName": "kind", "mapping": {"a": "User", "b": "#/components/schemas/User"}}}
		}
	}
}`

const orders = `{
	"openapi": "3.0.3", "info": {"title": "Orders", "version": "1"},
	"paths": {
		"/v1/users/{id}": {"get": {"operationId": "get", "responses": {}}, "put": {"operationId": "get", "responses": {}}},
		"/orders": {"get": {"responses": {"200": {"description": "all"}}}}
	},
	"components": {"schemas": {"User": {"type": "string"}}}
}`

var documents = []policy.Document{
	{Route: "users", File: "users.yaml", Base: "/v1", JSON: []byte(users)},
	{Route: "more-users", File: "users.yaml", Base: "/v1", JSON: []byte(users)},
	{Route: "orders/all", File: "orders.yaml", JSON: []byte(orders)},
}

func TestMerge(t *testing.T) {
	text, err := Merge(documents)
	if err != nil {
		t.Fatal(err)
	}
	var doc map[string]any
	if err := json.Unmarshal(text, &doc); err != nil {
		t.Fatal(err)
	}
	at := func(path ...string) (v any) {
		v = doc
		for _, step := range path {
			v = mapOf(v)[step]
		}
		return v
	}
	f := func(want string, path ...string) {
		t.Helper()
		if got, _ := json.Marshal(at(path...)); string(got) != want {
			t.Errorf("%v: got %s, want %s", path, got, want)
		}
	}
	f(`"3.1.0"`, "openapi")
	f(`"one user"`, "paths", "/v1/users/{id}", "get", "summary")
	f(`["users","more-users"]`, "paths", "/v1/users/{id}", "get", "x-sluice-routes")
	f(`["orders/all"]`, "paths", "/v1/users/{id}", "put", "x-sluice-routes")
	f(`"orders_all.get"`, "paths", "/v1/users/{id}", "put", "operationId")
	f(`["Orders"]`, "paths", "/orders", "get", "tags")
	f(`[{"users.key":[]}]`, "paths", "/v1/users/{id}", "get", "security")
	f(`[]`, "paths", "/v1/users/{id}", "delete", "security")
	f(`[{"description":"own","in":"path","name":"id","required":true},{"$ref":"#/components/parameters/users.Lang"}]`, "paths", "/v1/users/{id}", "delete", "parameters")
	f(`"#/components/schemas/users.User"`, "paths", "/v1/users/{id}", "get", "responses", "200", "content", "application/json", "schema", "$ref")
	f(`{"a":"#/components/schemas/users.User","b":"#/components/schemas/users.User"}`, "components", "schemas", "users.Pet", "discriminator", "mapping")
	f(`{"type":"string"}`, "components", "schemas", "orders_all.User")
	f(`{"$ref":"#/components/schemas/users.Pet"}`, "components", "schemas", "users.User", "properties", "security") // a property of that name
}

func TestPage(t *testing.T) {
	text, err := Page(documents)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"/v1/users/{id}", "one user", "integer, from 1", "string: de, en", `href="#users.User"`, "list of User", "deprecated", "&lt;script&gt;", "from <code>orders.yaml</code>",
	} {
		if !strings.Contains(string(text), want) {
			t.Errorf("no %q in the page", want)
		}
	}
	for _, not := range []string{"<script", "http://", "https://", "ZgotmplZ"} {
		if strings.Contains(string(text), not) {
			t.Errorf("%q in the page", not)
		}
	}
	if empty, err := Page(nil); err != nil || !strings.Contains(string(empty), "No route has a description") {
		t.Errorf("%v %s", err, empty)
	}
}
