// Package registry lists the policies and actions that the binary has. The
// lists are generated from the folders, so that adding one is adding a folder.
package registry

import "sluice/gateway/snapshot"

// All returns every policy and action.
func All() *snapshot.Registry { return snapshot.NewRegistry(policies, actions) }
