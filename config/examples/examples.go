// Package examples holds configurations that run; tests send requests through each.
package examples

import _ "embed"

// Demo is what `sluice demo` runs.
//
//go:embed demo.yaml
var Demo []byte
