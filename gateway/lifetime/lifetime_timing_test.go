package lifetime

import "testing"

// A lease of what lives already: what each endpoint, limiter and pool costs in a reload.
func BenchmarkAcquireRelease(b *testing.B) {
	p := NewPool[string, *resource](Options[string]{})
	r := &resource{name: "a"}
	if _, err := p.Acquire("a", making(r)); err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	b.RunParallel(func(pb *testing.PB) {
		for pb.Next() {
			l, _ := p.Acquire("a", nil)
			l.Release()
		}
	})
}
