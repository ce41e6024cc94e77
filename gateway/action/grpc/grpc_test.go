package grpc

import (
	"testing"

	"sluice/gateway/action/actiontest"
)

func TestSettings(t *testing.T) {
	w := actiontest.New(t, `
services:
  calls: {protocol: grpc, endpoints: ["http://127.0.0.1:9"]}
  rest: {endpoints: ["http://127.0.0.1:9"]}
`)
	w.Files(t, Definition)
}
