package gateway_test

import (
	"testing"

	"sluice/config"
)

func TestReadyWhileDraining(t *testing.T) {
	g, _ := start(t, `listeners: {main: {address: "127.0.0.1:0"}}`)
	if ready, checks := g.Ready(); !ready || checks["listeners"] != "ok" {
		t.Fatal(checks)
	}
	g.Shutdown(t.Context())
	if ready, checks := g.Ready(); ready || checks["draining"] != "yes" {
		t.Fatal(checks)
	}
}

func TestCheckLeavesTheGatewayAlone(t *testing.T) {
	g, _ := start(t, `listeners: {main: {address: "127.0.0.1:0"}}`)
	f := func(text string, good bool) {
		t.Helper()
		c, err := config.Parse("next.yaml", []byte(text), config.Options{})
		if err != nil {
			t.Fatal(err)
		}
		if err = g.Check(c); (err == nil) != good {
			t.Error(err)
		}
		if g.Status().Generation != 1 || g.Status().LastError != "" {
			t.Errorf("%+v", g.Status())
		}
	}
	f(`listeners: {main: {address: "127.0.0.1:0"}, other: {address: "127.0.0.1:1"}}`, true)
	f(`policies: {quota: {requests: 1}}`, false)
}
