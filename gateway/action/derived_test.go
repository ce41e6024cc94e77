package action

import (
	"testing"

	"sluice/gateway/exchange"
)

// A request made for the client's says of the client only what is as true of itself.
func TestDerive(t *testing.T) {
	fields := []exchange.Field{
		{Kind: exchange.KindConnection, Name: []byte("Connection"), Value: []byte("close")},
		{Kind: exchange.KindContentLength, Name: []byte("Content-Length"), Value: []byte("3")},
		{Name: []byte("Authorization"), Value: []byte("Bearer x")},
		{Name: []byte("x-http-method-override"), Value: []byte("DELETE")},
		{Name: []byte("RANGE"), Value: []byte("bytes=0-1")},
		{Name: []byte("X-Tenant"), Value: []byte("a")},
		{Name: []byte("X-Unwanted"), Value: []byte("b")},
	}
	for _, c := range []struct {
		name   string
		passes func([]byte) bool
		want   []string
	}{
		{"all", nil, []string{"Connection", "Authorization", "X-Tenant", "X-Unwanted"}},
		{"by name", func(n []byte) bool { return string(n) == "X-Tenant" }, []string{"Connection", "X-Tenant"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			x := &exchange.Exchange{}
			x.Fields = append(x.Fields, fields...)
			x.ToBackend.Set("If-None-Match", []byte(`"decided"`))
			x.ToBackend.Set("X-Kept", []byte("decided"))
			Derive(x, c.passes)
			if len(x.Fields) != len(c.want) {
				t.Fatalf("%d fields go on, want %v", len(x.Fields), c.want)
			}
			for i, want := range c.want {
				if got := string(x.Fields[i].Name); got != want {
					t.Errorf("field %d is %s, want %s", i, got, want)
				}
			}
			if v, ok := x.ToBackend.Value("If-None-Match"); ok && len(v) > 0 {
				t.Errorf("the policies' If-None-Match %s goes on", v)
			}
			if v, _ := x.ToBackend.Value("X-Kept"); string(v) != "decided" {
				t.Errorf("X-Kept that policies decided is %q", v)
			}
		})
	}
}
