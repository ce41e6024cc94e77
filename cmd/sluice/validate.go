package main

import (
	"fmt"

	"github.com/spf13/cobra"

	"sluice/gateway"
	"sluice/gateway/registry"
	"sluice/gateway/snapshot"
)

func validateCommand() *cobra.Command {
	var src configuration
	c := &cobra.Command{
		Use:   "validate -c FILE|DIR|etcd://HOST:PORT/PREFIX",
		Short: "check a configuration; every error at once",
		Args:  cobra.NoArgs,
		RunE: func(c *cobra.Command, _ []string) error {
			s, done, err := src.compile()
			if err != nil {
				return err
			}
			defer done()
			for _, r := range s.Config.Remarks() {
				fmt.Fprintln(c.ErrOrStderr(), "warning:", r.Error())
			}
			for _, w := range s.Warnings {
				fmt.Fprintln(c.ErrOrStderr(), "warning:", s.Config.Errorf(w.Path, "%s", w.Message).Error())
			}
			fmt.Fprintf(c.OutOrStdout(), "%s is valid: %d routes, %d services\n", src.path, len(s.Config.Routes), len(s.Config.Services))
			return nil
		},
	}
	src.flags(c)
	return c
}

// compile loads and compiles the configuration without starting anything.
func (s *configuration) compile() (*snapshot.Snapshot, func(), error) {
	if err := s.check(); err != nil {
		return nil, nil, err
	}
	c, err := s.load()
	if err != nil {
		return nil, nil, err
	}
	return gateway.Compile(gateway.Options{Registry: registry.All()}, c)
}
