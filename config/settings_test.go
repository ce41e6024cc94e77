package config

import (
	"fmt"
	"reflect"
	"strings"
	"testing"
)

// dependent has settings whose defaults are other settings.
type dependent struct {
	Rate  int               `yaml:"rate" default:"7"`
	Burst int               `yaml:"burst"`
	Send  map[string]string `yaml:"send"`
}

func (d *dependent) Complete() {
	if d.Burst == 0 {
		d.Burst = d.Rate
	}
	if d.Send == nil {
		d.Send = map[string]string{}
	}
	if _, ok := d.Send["X-Id"]; !ok {
		d.Send["X-Id"] = "sub"
	}
}

func TestBlockSettings(t *testing.T) {
	type from struct {
		Header string `yaml:"header" default:"Authorization"`
		Cookie string `yaml:"cookie"`
	}
	type settings struct {
		Secret  Secret            `yaml:"secret"`
		Max     Duration          `yaml:"max" default:"1s"`
		From    from              `yaml:"from"`
		Headers map[string]string `yaml:"headers"`
		Names   []string          `yaml:"names" default:"a,b"`
	}
	f := func(text string, typ reflect.Type, want ...string) {
		t.Helper()
		b, err := ParseBlock("policies.x", text)
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		for _, s := range b.Settings(typ) {
			got = append(got, fmt.Sprintf("%s=%v %s", s.Path, s.Value, s.Source))
		}
		if strings.Join(got, "\n") != strings.Join(want, "\n") {
			t.Errorf("%s:\n%s\nwant\n%s", text, strings.Join(got, "\n"), strings.Join(want, "\n"))
		}
	}
	typ := reflect.TypeFor[settings]()
	f("{secret: hush, from: {cookie: session}, headers: {X-Api-Key: hush, X-A: b}}", typ,
		"from.cookie=session block:1", "from.header=Authorization default", "headers.X-A=b block:1", "headers.X-Api-Key=*** block:1",
		"max=1s default", "names=[a b] default", "secret=*** block:1")
	f("- {max: 2s, names: [c]}\n- {}", typ,
		"[0].from.header=Authorization default", "[0].max=2s block:1", "[0].names=[c] block:1",
		"[1].from.header=Authorization default", "[1].max=1s default", "[1].names=[a b] default")
	f("off", typ, "=off block:1")
	other := reflect.TypeFor[dependent]()
	f("{}", other, "burst=7 default", "rate=7 default", "send.X-Id=sub default")
	f("{rate: 9, send: {X-A: b}}", other, "burst=9 default", "rate=9 block:1", "send.X-A=b block:1", "send.X-Id=sub default")
	f("{burst: 3, send: {X-Id: name}}", other, "burst=3 block:1", "rate=7 default", "send.X-Id=name block:1")
	f("{client_secret: hush, list: [{a: 1}]}", nil, "client_secret=*** block:1", "list[0].a=1 block:1")
	f("{wrong: 1, password: hush}", typ, "password=*** block:1", "wrong=1 block:1")
}
