package main

import (
	"errors"
	"fmt"
	"slices"

	"github.com/spf13/cobra"

	"sluice/gateway/chain"
)

func auditCommand() *cobra.Command {
	root := &cobra.Command{
		Use:   "audit",
		Short: "logs of the policy audit, and of what was changed through the admin listener",
		Args:  cobra.ArbitraryArgs,
		RunE:  whichOf("verify"),
	}
	root.AddCommand(auditVerify())
	return root
}

func auditVerify() *cobra.Command {
	var head string
	c := &cobra.Command{
		Use:   "verify FILE…",
		Short: "check that no record was changed, removed or put between others",
		Long: "Checks the chain of an audit log, and names the first line at which it is broken. A single FILE is checked with the files beside it\n" +
			"that it was continued from, FILE.NUMBER; several are taken as they follow each other. A log that was cut off at its end is whole by\n" +
			"itself: compare its last record with one that was noted elsewhere, as the operator log does every hour, or give that one's --hash.",
		Args: cobra.MinimumNArgs(1),
		RunE: func(c *cobra.Command, files []string) error {
			if len(files) == 1 {
				all, err := chain.Files(files[0])
				if err != nil {
					return err
				}
				if slices.Contains(all, files[0]) {
					files = all
				}
			}
			r, err := chain.Verify(head, files...)
			var broken *chain.BrokenError
			if errors.As(err, &broken) {
				return fmt.Errorf("the log is broken: %w", broken)
			}
			if err != nil {
				return err
			}
			if r.Records == 0 {
				fmt.Fprintf(c.OutOrStdout(), "%s: no records yet\n", files[len(files)-1])
				return nil
			}
			fmt.Fprintf(c.OutOrStdout(), "whole: %d records in %d files, %d to %d, the last with hash %s\n", r.Records, len(files), r.First, r.Last, r.Hash)
			if r.First > 1 {
				fmt.Fprintf(c.OutOrStdout(), "records before %d are in files that were not given\n", r.First)
			}
			if r.Lost > 0 {
				fmt.Fprintf(c.OutOrStdout(), "the gateway itself noted that %d records could not be written\n", r.Lost)
			}
			return nil
		},
	}
	c.Flags().StringVar(&head, "hash", "", "hash of a record that was noted elsewhere and has to be in the log")
	return c
}
