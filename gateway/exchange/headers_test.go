package exchange

import "testing"

func TestReplaces(t *testing.T) {
	f := func(edited, name string, want bool) {
		t.Helper()
		var h HeaderEdits
		h.Remove(edited)
		h.Add("X-Other", []byte("1"))
		if got := h.Replaces([]byte(name)); got != want {
			t.Errorf("an edit of %s replaces %s: %v", edited, name, got)
		}
	}
	f("X-Tenant", "x-tenant", true)
	f("X-Tenant", "X_Tenant", true)
	f("X_Tenant", "X-Tenant", true)
	f("x_tenant", "X_Tenant", true)
	f("X-Tenant", "X-Tenants", false)
	f("X-Tenant", "X-Other", false)
}
