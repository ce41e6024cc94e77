package main

import (
	"fmt"
	"runtime"
	"runtime/debug"

	"github.com/spf13/cobra"
)

func versionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "version",
		Short: "print the versions of sluice, Go and fasthttp",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			b := build()
			fmt.Fprintf(c.OutOrStdout(), "sluice %s (commit %s)\ngo %s\nfasthttp %s\n", b.version, b.commit, runtime.Version(), b.fasthttp)
			return nil
		},
	}
}

type buildInfo struct{ version, commit, fasthttp string }

// build tells what this binary was made of: by the linker's settings, else by
// what the Go command noted.
func build() buildInfo {
	b := buildInfo{version: version, commit: commit, fasthttp: "unknown"}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return b
	}
	for _, s := range info.Settings {
		if s.Key == "vcs.revision" && b.commit == "" {
			b.commit = s.Value
		}
	}
	for _, d := range info.Deps {
		if d.Path == "github.com/valyala/fasthttp" {
			b.fasthttp = d.Version
		}
	}
	if b.commit == "" {
		b.commit = "unknown"
	}
	return b
}
