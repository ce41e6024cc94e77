// Package ext stands in for a module that lies inside Traefik's own and that
// its release as a Go module therefore lacks: the hooks by which extensions add
// settings, of which Traefik itself has none.
package ext

// HTTP is embedded in the settings of all HTTP.
type HTTP struct{}

// Router is embedded in those of a router.
type Router struct{}
