package cli

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/apimachinery/pkg/util/duration"
	"sigs.k8s.io/yaml"

	"knarr.dev/knarr/internal/client/remote"
	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/why"
)

// whyTimeout bounds one explanation, all that is read for it included.
const whyTimeout = time.Minute

type whyOptions struct {
	access
	namespace, output string
}

func whyCommand() *cobra.Command {
	var o whyOptions
	cmd := &cobra.Command{
		Use:   "why KIND/NAME",
		Short: "Explain what is the matter with an object, the first cause first",
		Long: `Explain what is the matter with an object: one chain of causes, the first cause first, each with
what helps. It is read from the API with your own rights; what you may not read is said to be unknown.
Exits 0 if nothing is the matter, 1 if something is, 2 if the question cannot be answered.`,
		Example: `  knarr why deployment/web
  knarr why pod/web-0 -n shop
  knarr why ns/old -o json --kubeconfig ~/.kube/config`,
		Args: func(_ *cobra.Command, args []string) error {
			_, _, err := kindAndName(args)
			return unanswered(err)
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			ctx, cancel := context.WithTimeout(cmd.Context(), whyTimeout)
			defer cancel()
			return o.run(ctx, cmd.OutOrStdout(), args)
		},
	}
	cmd.SetFlagErrorFunc(func(_ *cobra.Command, err error) error { return unanswered(err) })
	o.flags(cmd)
	cmd.Flags().StringVarP(&o.namespace, "namespace", "n", "", "the object's namespace (default that of the kubeconfig's context)")
	cmd.Flags().StringVarP(&o.output, "output", "o", "", "json or yaml instead of text")
	return cmd
}

// unanswered marks errors because of which there is no answer.
func unanswered(err error) error {
	if err == nil {
		return nil
	}
	return &exit{code: 2, err: err}
}

// kindAndName reads KIND/NAME or KIND NAME.
func kindAndName(args []string) (kind, name string, err error) {
	kind, name, slash := strings.Cut(strings.Join(args, "/"), "/")
	if !slash || len(args) > 2 || kind == "" || name == "" || strings.Contains(name, "/") {
		return "", "", errors.New("give one object as KIND/NAME, for example `knarr why deployment/web`")
	}
	return kind, name, nil
}

// explanation is what is printed as JSON or YAML.
type explanation struct {
	Object  why.Object `json:"object"`
	Healthy bool       `json:"healthy"`
	Causes  []why.Link `json:"causes"` // the first cause first
}

func (o *whyOptions) run(ctx context.Context, w io.Writer, args []string) error {
	if o.output != "" && o.output != "json" && o.output != "yaml" {
		return unanswered(fmt.Errorf("-o %s is neither json nor yaml", o.output))
	}
	kind, name, err := kindAndName(args)
	if err != nil {
		return unanswered(err)
	}
	api, namespace, err := o.connect()
	if err != nil {
		return unanswered(err)
	}
	e, err := explain(ctx, api, kind, cmp.Or(o.namespace, namespace), name)
	if err != nil {
		return unanswered(unreached(err))
	}
	if err := e.print(w, o.output, time.Now()); err != nil {
		return unanswered(err)
	}
	if !e.Healthy {
		return &exit{code: 1}
	}
	return nil
}

func explain(ctx context.Context, api *remote.Client, kind, namespace, name string) (*explanation, error) {
	k, err := findKind(ctx, api, kind)
	if err != nil {
		return nil, err
	}
	if !k.Namespaced {
		namespace = ""
	}
	obj, err := getAny(ctx, api, kinds.Ref{Kind: k, Namespace: namespace, Name: name})
	if err != nil {
		return nil, err
	}
	links, err := why.Ask(ctx, api, time.Now(), k, obj)
	if err != nil {
		return nil, err
	}
	if links == nil {
		links = []why.Link{} // an empty list, not null
	}
	return &explanation{Object: why.Object{Kind: k.GVK.Kind, Namespace: namespace, Name: name}, Healthy: len(links) == 0, Causes: links}, nil
}

func (e *explanation) print(w io.Writer, format string, now time.Time) error {
	switch format {
	case "json":
		enc := json.NewEncoder(w)
		enc.SetIndent("", "  ")
		enc.SetEscapeHTML(false)
		return enc.Encode(e)
	case "yaml":
		data, err := yaml.Marshal(e)
		if err == nil {
			_, err = w.Write(data)
		}
		return err
	}
	if e.Healthy {
		_, err := fmt.Fprintf(w, "nothing is the matter with %s\n", e.Object)
		return err
	}
	var b strings.Builder
	for i, l := range e.Causes {
		if i > 0 {
			b.WriteString("so ")
		}
		fmt.Fprintf(&b, "%s: %s", l.Object, oneLine(l.What))
		if l.Since != nil && !l.Since.After(now) {
			fmt.Fprintf(&b, " (for %s)", duration.HumanDuration(now.Sub(l.Since.Time)))
		}
		b.WriteByte('\n')
		if l.Remedy != "" {
			fmt.Fprintf(&b, "   what helps: %s\n", oneLine(l.Remedy))
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}

// oneLine keeps what programs and users have written from moving the cursor, or
// from looking like a line of ours.
func oneLine(s string) string {
	return strings.Map(func(r rune) rune {
		if r == '\n' || r == '\t' {
			return ' '
		}
		if r < ' ' || r >= 0x7f && r < 0xa0 {
			return -1
		}
		return r
	}, s)
}
