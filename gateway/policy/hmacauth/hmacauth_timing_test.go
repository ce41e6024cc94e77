package hmacauth

import (
	"testing"

	"sluice/gateway/exchange"
	"sluice/gateway/policy/policytest"
)

func BenchmarkAuthenticate(b *testing.B) {
	w := policytest.New(b, consumers)
	h := w.MustBuild(b, Definition, "replay_protection: false")
	credential := header("alice", "hmac-sha256", aliceSecret, usualHeaders, "host: api.example.com", "date: "+date, "get /")
	lines := w.Exchange("/", "Date: "+date, credential).Fields
	w.BenchmarkParallel(b, func(x *exchange.Exchange) {
		x.Fields = append(x.Fields, lines...)
		if err := h.Authenticate(x); err != nil {
			b.Fatal(err)
		}
	}, "Date: "+date, credential)
}
