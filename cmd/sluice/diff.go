package main

import (
	"encoding/json"
	"fmt"
	"io"

	"github.com/spf13/cobra"

	"sluice/gateway/snapshot"
)

func diffCommand() *cobra.Command {
	var set []string
	var asJSON bool
	c := &cobra.Command{
		Use:   "diff OLD NEW",
		Short: "what would change for requests from one configuration to another",
		Long: "What would change for requests: routes with the policies in force on them, services, consumers and everything else that was added, removed or changed. " +
			"Each of the two is a file or a directory, as -c takes them. Both have to be valid. Secrets are never shown; that one changed is.",
		Args: cobra.ExactArgs(2),
		RunE: func(c *cobra.Command, args []string) error {
			var sides [2]*snapshot.Snapshot
			for i, path := range args {
				src := configuration{path: path, set: set}
				s, done, err := src.compile()
				if err != nil {
					return err
				}
				defer done()
				sides[i] = s
			}
			differences := sides[0].Diff(sides[1])
			if asJSON {
				if differences == nil {
					differences = []snapshot.Difference{}
				}
				out := json.NewEncoder(c.OutOrStdout())
				out.SetIndent("", "  ")
				return out.Encode(differences)
			}
			writeDifferences(c.OutOrStdout(), differences)
			return nil
		},
	}
	c.Flags().StringArrayVar(&set, "set", nil, "PATH=VALUE for any scalar of both configurations; repeatable")
	c.Flags().BoolVar(&asJSON, "json", false, "print JSON")
	return c
}

var signs = map[string]string{"added": "+", "removed": "-", "changed": "~"}

func writeDifferences(w io.Writer, differences []snapshot.Difference) {
	if len(differences) == 0 {
		fmt.Fprintln(w, "nothing changes for requests")
		return
	}
	for _, d := range differences {
		fmt.Fprintf(w, "%s %s", signs[d.Change], d.Kind)
		if d.Name != "" {
			fmt.Fprintf(w, " %s", d.Name)
		}
		fmt.Fprintln(w)
		for _, s := range d.Settings {
			path := s.Path
			if path == "" {
				path = "all of it"
			}
			switch {
			case s.Old == nil:
				fmt.Fprintf(w, "    + %s: %s\n", path, s.New)
			case s.New == nil:
				fmt.Fprintf(w, "    - %s: %s\n", path, s.Old)
			case string(s.Old) == string(s.New):
				fmt.Fprintf(w, "    ~ %s: another secret\n", path)
			default:
				fmt.Fprintf(w, "    ~ %s: %s -> %s\n", path, s.Old, s.New)
			}
		}
	}
}
