package bandwidth

import (
	"testing"

	"sluice/gateway/policy/policytest"
)

func BenchmarkPiece(b *testing.B) {
	w := policytest.New(b, "")
	h := w.MustBuild(b, Definition, "rate: 1TiB")
	c := &client{}
	x := w.Exchange("/")
	defer x.Close()
	x.Client = c
	b.ReportAllocs()
	for b.Loop() {
		_ = h.Request(x)
		c.pace.Piece(&c.meter, 1<<10)
	}
}
