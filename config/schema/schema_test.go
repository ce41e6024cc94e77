package schema

import (
	"bytes"
	"os"
	"reflect"
	"strings"
	"testing"

	"github.com/goccy/go-yaml"
	"github.com/santhosh-tekuri/jsonschema/v6"

	"sluice/config"
)

// Mirror is a policy for this test.
type Mirror struct {
	// Service that gets the copies.
	Service string `yaml:"service" required:"true"`
	// Sample is the share of requests that is copied.
	Sample float64 `yaml:"sample" default:"1.0" min:"0" max:"1"`
	// MaxBody bounds a copied body.
	MaxBody config.Size `yaml:"max_body" default:"64KiB"`
}

func options() Options {
	return Options{Root: "../..", Policies: []Entry{{Name: "mirror", Stage: "Transform", Type: reflect.TypeFor[Mirror](), AllowList: true}}}
}

func compile(t *testing.T, o Options) func(text string) error {
	t.Helper()
	data, err := Generate(o)
	if err != nil {
		t.Fatal(err)
	}
	doc, err := jsonschema.UnmarshalJSON(bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	c := jsonschema.NewCompiler()
	if err := c.AddResource("sluice.schema.json", doc); err != nil {
		t.Fatal(err)
	}
	s, err := c.Compile("sluice.schema.json")
	if err != nil {
		t.Fatal(err)
	}
	return func(text string) error {
		t.Helper()
		asJSON, err := yaml.YAMLToJSON([]byte(text))
		if err != nil {
			t.Fatal(err)
		}
		value, err := jsonschema.UnmarshalJSON(bytes.NewReader(asJSON))
		if err != nil {
			t.Fatal(err)
		}
		return s.Validate(value)
	}
}

func TestSchemaSuccess(t *testing.T) {
	for _, file := range []string{"../testdata/full.yaml", "../testdata/contract.yaml"} {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if err := compile(t, Options{Root: "../.."})(string(text)); err != nil {
			t.Errorf("%s: %v", file, err)
		}
	}
	validate := compile(t, options())
	f := func(text string) {
		t.Helper()
		if err := validate(text); err != nil {
			t.Errorf("%s: %v", text, err)
		}
	}
	f(`policies: {mirror: {service: a, sample: 0.5, max_body: 1MiB}}`)
	f(`policies: {mirror: [{service: a}, {service: b}]}`)
	f(`policies: {mirror: off}`)
	f(`policies: {mirror: true}`)
	f(`limits: {max_connections: "${MAX}", idle_timeout: 0}`)
	f(`services: {a: {load_balancer: {strategy: {consistent_hash: {by: ip}}}}}`)
	f(`services: {a: {load_balancer: random, circuit_breaker: false, health_check: }}`)
	f(`routes: {a: {match: {headers: {x: 2, y: [a, "3"]}}, errors: {502: {body: x}}}}`)
}

func TestSchemaFailure(t *testing.T) {
	validate := compile(t, options())
	f := func(text string) {
		t.Helper()
		if validate(text) == nil {
			t.Errorf("%s: the schema accepts it", text)
		}
	}
	f(`lisstener: {}`)
	f(`policies: {mirrors: {service: a}}`)
	f(`policies: {mirror: {sample: 0.5}}`)
	f(`policies: {mirror: {service: a, sample: 2}}`)
	f(`policies: {mirror: {service: a, sampled: 1}}`)
	f(`limits: {idle_timeout: 30}`)
	f(`limits: {max_connections: -1}`)
	f(`limits: off`)
	f(`services: {a: {protocol: htp}}`)
	f(`services: {a: {endpoints: [{weight: 2}]}}`)
	f(`listeners: {a: {}}`)
}

func TestGenerateTwice(t *testing.T) {
	data, err := Generate(options())
	if err != nil {
		t.Fatal(err)
	}
	again, _ := Generate(options())
	if !bytes.Equal(data, again) {
		t.Error("generating twice gives two schemas")
	}
	for _, want := range []string{`"description": "The share of requests that is copied."`, "`max_header_size` bounds the request line", `"default": "64KiB"`} {
		if !bytes.Contains(data, []byte(want)) {
			t.Errorf("the schema has no %s", want)
		}
	}
}

func TestReference(t *testing.T) {
	data, err := Reference(options())
	if err != nil {
		t.Fatal(err)
	}
	f := func(want string) {
		t.Helper()
		if !strings.Contains(string(data), want) {
			t.Errorf("the reference has no %s", want)
		}
	}
	f("### `services.NAME`")
	f("| `load_balancer.slow_start` | duration | `0s` |")
	f("| `tls.certificates[].cert` | text | required |")
	f("One of `http`, `https`, `h2c`, `grpc`, `grpcs`, `graphql`. |")
	f("### `mirror` (Transform)\n\nA policy for this test. May be a list of such blocks.")
	f("| `sample` | number | `1.0` | The share of requests that is copied. At least 0. At most 1. |")
}

func TestUndocumented(t *testing.T) {
	d := newDocs("../..")
	seen := map[reflect.Type]bool{}
	var walk func(reflect.Type)
	walk = func(t2 reflect.Type) {
		if t2 == nil || seen[t2] {
			return
		}
		seen[t2] = true
		for _, f := range config.Fields(t2) {
			if d.field(f.Owner, f.GoName, f.Name) == "" {
				t.Errorf("%s.%s has no doc comment", t2, f.GoName)
			}
			walk(blockOf(f.Type))
		}
	}
	walk(reflect.TypeFor[config.Config]())
}
