// Command sluice is the gateway.
package main

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"sluice/config"
	"sluice/config/consul"
	"sluice/config/kong"
	"sluice/config/kubernetes"
	"sluice/gateway"
	"sluice/gateway/registry"
	"sluice/gateway/source"
)

// version and commit are set by the linker.
var version, commit = "dev", ""

// Exit codes.
const (
	exitConfig = 1
	exitUsage  = 2
	exitListen = 3
)

func main() { os.Exit(run(os.Args[1:])) }

func run(args []string) int {
	root := &cobra.Command{
		Use:           "sluice",
		Short:         "an API gateway: one binary in front of many services",
		SilenceErrors: true,
		SilenceUsage:  true,
		Args:          cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) > 0 {
				return wrongCommand(cmd, args[0])
			}
			return cmd.Help()
		},
	}
	root.SetFlagErrorFunc(wrongFlag)
	root.AddCommand(runCommand(), demoCommand(), validateCommand(), explainCommand(), diffCommand(), convertCommand(), tokenCommand(), schemaCommand(), versionCommand(), topCommand(), keysCommand(), auditCommand())
	root.AddCommand(manCommand())
	for _, c := range root.Commands() {
		if c.HasSubCommands() {
			for _, sub := range c.Commands() {
				fromEnvironment(sub)
			}
			continue
		}
		fromEnvironment(c)
	}
	root.SetHelpCommand(helpCommand())
	complete(root)
	root.SetArgs(args)
	err := root.Execute()
	if err == nil {
		return 0
	}
	var usage usageError
	var listen *gateway.ListenError
	var invalid config.Errors
	switch {
	case errors.As(err, &usage):
		fmt.Fprintln(os.Stderr, "sluice:", err)
		return exitUsage
	case errors.As(err, &listen):
		fmt.Fprintln(os.Stderr, "sluice:", err)
		return exitListen
	case errors.As(err, &invalid):
		fmt.Fprintln(os.Stderr, invalid.Error())
	default:
		fmt.Fprintln(os.Stderr, "sluice:", err)
	}
	return exitConfig
}

// helpCommand is cobra's, but for a command that does not exist, which is a mistake.
func helpCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "help [command]",
		Short: "Help about any command",
		ValidArgsFunction: func(c *cobra.Command, _ []string, toComplete string) (names []string, _ cobra.ShellCompDirective) {
			for _, sub := range c.Root().Commands() {
				if sub.IsAvailableCommand() && strings.HasPrefix(sub.Name(), toComplete) {
					names = append(names, cobra.CompletionWithDesc(sub.Name(), sub.Short))
				}
			}
			return names, cobra.ShellCompDirectiveNoFileComp
		},
		RunE: func(c *cobra.Command, args []string) error {
			about, rest, err := c.Root().Find(args)
			if err != nil || len(rest) > 0 {
				return wrongCommand(about, rest[0])
			}
			about.InitDefaultHelpFlag() // as --help shows it
			return about.Help()
		},
	}
}

// duration is a flag that reads durations as the configuration does: 30s, 5m, 1d.
type duration struct{ d *time.Duration }

func (v duration) String() string {
	if v.d == nil {
		return ""
	}
	return config.FormatDuration(*v.d)
}

func (v duration) Set(text string) (err error) {
	negative, positive := strings.CutPrefix(text, "-")
	if *v.d, err = config.ParseDuration(negative); positive {
		*v.d = -*v.d
	}
	return err
}

func (v duration) Type() string { return "duration" }

// durationVar adds a duration flag with a default.
func durationVar(f *pflag.FlagSet, p *time.Duration, name string, value time.Duration, usage string) {
	*p = value
	f.Var(duration{p}, name, usage)
}

// fromEnvironment gives every flag that is not on the command line the value
// of its variable: --some-flag has SLUICE_SOME_FLAG, repeatable ones take commas.
func fromEnvironment(c *cobra.Command) {
	args := c.Args
	c.Args = nil
	inner := c.RunE
	c.RunE = func(c *cobra.Command, positional []string) error {
		if args != nil {
			if err := args(c, positional); err != nil {
				return wrongArguments(c, positional)
			}
		}
		var err error
		c.Flags().VisitAll(func(f *pflag.Flag) {
			name := "SLUICE_" + strings.ToUpper(strings.ReplaceAll(f.Name, "-", "_"))
			value, ok := os.LookupEnv(name)
			if !ok || f.Changed || err != nil || f.Name == "help" {
				return
			}
			values := []string{value}
			if f.Value.Type() == "stringArray" {
				values = strings.Split(value, ",")
			}
			for _, v := range values {
				if e := c.Flags().Set(f.Name, v); e != nil {
					err = usageError{fmt.Errorf("%s: %w", name, e)}
				}
			}
		})
		if err != nil {
			return err
		}
		return inner(c, positional)
	}
}

// configuration are the flags that say which configuration to take.
type configuration struct {
	path        string
	set         []string
	kongUnknown string
	store       source.StoreOptions
}

func (s *configuration) flags(c *cobra.Command) {
	c.Flags().StringVarP(&s.path, "config", "c", "", "configuration: a file, a directory of *.yaml files, or etcd://HOST:PORT/PREFIX (etcds:// over TLS)")
	s.kongFlag(c)
	c.Flags().StringVar(&s.store.Username, "etcd-username", "", "user of the configuration store; its password is SLUICE_ETCD_PASSWORD")
	c.Flags().StringVar(&s.store.CA, "etcd-ca", "", "authorities that the configuration store is verified against, PEM; default: the system's")
	c.Flags().StringVar(&s.store.Cert, "etcd-cert", "", "client certificate for the configuration store, PEM")
	c.Flags().StringVar(&s.store.Key, "etcd-key", "", "key of the client certificate, PEM")
	c.Flags().StringArrayVar(&s.set, "set", nil, "PATH=VALUE for any scalar of the configuration, as limits.idle_timeout=30s; repeatable")
}

func (s *configuration) kongFlag(c *cobra.Command) {
	c.Flags().StringVar(&s.kongUnknown, "kong-unknown", "error", "error|warn: what to do about plugins of a Kong file that can not be honoured")
}

func (s *configuration) checkKong() error {
	if s.kongUnknown != "" && s.kongUnknown != "error" && s.kongUnknown != "warn" {
		return usageError{fmt.Errorf("--kong-unknown %q: must be error or warn", s.kongUnknown)}
	}
	return nil
}

func (s *configuration) check() error {
	if err := s.checkKong(); err != nil {
		return err
	}
	if s.path == "" {
		return usageError{errors.New("which configuration? Give -c FILE or -c DIR, or set SLUICE_CONFIG")}
	}
	for _, set := range s.set {
		if !strings.Contains(set, "=") {
			return usageError{fmt.Errorf("--set %q: must be PATH=VALUE, as limits.idle_timeout=30s", set)}
		}
	}
	return nil
}

// open returns where the configuration comes from.
func (s *configuration) open(o config.Options, log *slog.Logger) (origin, error) {
	if !source.IsStore(s.path) {
		return source.Open(s.path, o), nil
	}
	store := s.store
	store.Password, store.Log = os.Getenv("SLUICE_ETCD_PASSWORD"), log
	opened, err := source.OpenStore(s.path, store)
	if err != nil {
		return nil, usageError{err}
	}
	return opened, nil
}

// load reads the configuration once; every mistake in it is an error.
func (s *configuration) load() (*config.Config, error) {
	if !source.IsStore(s.path) {
		return config.Load(s.path, s.options())
	}
	from, err := s.open(s.options(), nil)
	if err != nil {
		return nil, err
	}
	defer from.(*source.Store).Close()
	in, err := from.Read()
	if err != nil {
		return nil, err
	}
	return in.Load(s.options())
}

// translators are those of what sources tell.
var translators = map[string]config.ManifestTranslator{"kubernetes": kubernetes.TranslateTold, "consul": consul.Translate}

func (s *configuration) options() config.Options {
	return config.Options{Set: s.set, Environ: os.Environ(), Manifests: kubernetes.Translate, Objects: translators, Kong: kong.Translator(kong.Options{Warn: s.kongUnknown == "warn"}),
		Policies: registry.All().CheckPolicies}
}
