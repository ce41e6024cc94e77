// Package registry lists the policies, actions and sources of endpoints that the binary has. The
// lists are generated from the folders, so that adding one is adding a folder.
package registry

import "sluice/gateway/snapshot"

// All returns every policy, action and source of endpoints.
func All() *snapshot.Registry { return snapshot.NewRegistry(policies, actions, sources...) }
