package coding

import "testing"

func BenchmarkEncode(b *testing.B) {
	bodies := map[string][]byte{"1KiB": samples()[2], "500KiB": samples()[3]}
	for _, c := range all {
		for _, name := range []string{"1KiB", "500KiB"} {
			b.Run(c.String()+"/"+name, func(b *testing.B) {
				body := bodies[name]
				b.SetBytes(int64(len(body)))
				b.ReportAllocs()
				size := 0
				for b.Loop() {
					e := NewEncoder(c)
					size = 0
					for rest := body; ; {
						n := min(len(rest), 16<<10)
						out, err := e.Encode(rest[:n], true, n == len(rest))
						if err != nil {
							b.Fatal(err)
						}
						size += len(out)
						if n == len(rest) {
							break
						}
						rest = rest[n:]
					}
					e.Release()
				}
				b.ReportMetric(float64(size)/float64(len(body)), "ratio")
			})
		}
	}
}
