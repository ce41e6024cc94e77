package telemetry

// tenantRefusals are the reasons of refusals that have to do with the tenant's limits and bounds.
var tenantRefusals = [...]string{"rate_limited", "quota_exceeded", "overload", "concurrency_limited", "deadline_exceeded", "wrong_tenant"}

// TenantMetrics are the resolved series of a tenant. All methods may be called concurrently and allocate nothing.
type TenantMetrics struct {
	requests          [6]*Counter // by the first digit of the status code; 0 is other
	refused           [len(tenantRefusals)]*Counter
	bytesIn, bytesOut *Counter
}

// Tenant leases the series of a tenant for g (nil: for good).
func (m *Metrics) Tenant(g *Generation, name string) *TenantMetrics {
	t := &TenantMetrics{bytesIn: m.TenantBytes.With(g, "in", name), bytesOut: m.TenantBytes.With(g, "out", name)}
	for i, class := range [...]string{other, "1xx", "2xx", "3xx", "4xx", "5xx"} {
		t.requests[i] = m.TenantRequests.With(g, name, class)
	}
	for i, reason := range tenantRefusals {
		t.refused[i] = m.TenantRefused.With(g, name, reason)
	}
	return t
}

// Done counts a request that ended.
func (t *TenantMetrics) Done(status int, bytesIn, bytesOut int64) {
	class := status / 100
	if class < 0 || class >= len(t.requests) {
		class = 0
	}
	t.requests[class].Inc()
	if bytesIn > 0 {
		t.bytesIn.Add(bytesIn)
	}
	if bytesOut > 0 {
		t.bytesOut.Add(bytesOut)
	}
}

// Refused counts a refusal, if it has to do with the tenant.
func (t *TenantMetrics) Refused(reason string) {
	for i, r := range tenantRefusals {
		if r == reason {
			t.refused[i].Inc()
			return
		}
	}
}
