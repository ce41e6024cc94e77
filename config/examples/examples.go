// Package examples holds configurations that run; tests send requests through each.
package examples

import "embed"

// Demo is what `sluice demo` runs.
//
//go:embed demo.yaml
var Demo []byte

// GraphQL is graphql.yaml with the schema beside it.
//
//go:embed graphql.yaml shop.graphql
var GraphQL embed.FS
