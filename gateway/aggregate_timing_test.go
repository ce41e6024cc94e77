package gateway_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

// BenchmarkAggregate is five calls beside the slowest of them alone, which takes 5 ms at its service: the ratio of the medians.
func BenchmarkAggregate(b *testing.B) {
	const slow = 5 * time.Millisecond
	s := answering(b, func(head, _ string) string {
		if strings.HasPrefix(head, "GET /slow ") {
			<-time.After(slow)
		}
		return reply(200, `{"id":7,"name":"Ann","items":[1,2,3]}`)
	})
	var calls strings.Builder
	for i := range 4 {
		fmt.Fprintf(&calls, "c%d: {service: s, path: /%d}, ", i, i)
	}
	all := aggregating(b, "{calls: {"+calls.String()+"slow: {service: s, path: /slow}}}", "", "s", s)
	one := forward(b, s, "", "", "")
	took := func(c *peer) time.Duration {
		began := time.Now()
		_ = c.conn.SetDeadline(began.Add(patience))
		c.request("GET /slow").response()
		return time.Since(began)
	}
	whole, alone := all.client(), one.client()
	var together, slowest []time.Duration
	for b.Loop() {
		together = append(together, took(whole))
		slowest = append(slowest, took(alone))
	}
	median := func(d []time.Duration) float64 { slices.Sort(d); return float64(d[len(d)/2]) }
	b.ReportMetric(median(together)/median(slowest), "ratio")
	b.ReportMetric(median(together)/1e6, "ms-together")
	b.ReportMetric(median(slowest)/1e6, "ms-slowest")
}
