package admin

import (
	"testing"

	"github.com/valyala/fasthttp"
)

// What names the gateway's own files and addresses, as where the store of usage is, is for operators.
func TestOnlyOperatorsSeeInside(t *testing.T) {
	f := func(key string, value any, want string) {
		t.Helper()
		ctx := new(fasthttp.RequestCtx)
		ctx.SetUserValue(key, value)
		if got := inward(ctx, "outward", "inward"); got != want {
			t.Errorf("%s: %s, want %s", key, got, want)
		}
	}
	f(actorKey, "token", "inward")
	f(tenantKey, "acme", "outward")
	f(linkKey, &link{Consumer: "alice"}, "outward")
}
