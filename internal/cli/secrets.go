package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"net/http"
	"net/url"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"knarr.dev/knarr/internal/client/remote"
	"knarr.dev/knarr/internal/server"
	"knarr.dev/knarr/internal/store/transform"
)

func secretsCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "secrets", Short: "Change the key by which Secrets are encrypted on disk, or give up what a lost key has encrypted", Args: subcommand,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() }}
	cmd.AddCommand(secretsRotateCommand(), secretsDiscardCommand())
	return cmd
}

func secretsRotateCommand() *cobra.Command {
	var dataDir string
	cmd := &cobra.Command{
		Use:   "rotate",
		Short: "Make a new encryption key, write every Secret anew, and drop the old key",
		Long: `Make a new encryption key, write every Secret anew, count in the store itself what is
encrypted by which key, and drop the old key once nothing needs it. A running server takes the
key at once; one that does not run is rotated all the same. What was interrupted is ended by the
next run. With --encryption-provider-config the file's keys are yours: put a new one first there,
then this writes anew what the file says is to be encrypted, and counts.`,
		Args: noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return rotateSecrets(cmd.Context(), cmd.OutOrStdout(), dataDir)
		},
	}
	dataDirFlag(cmd, &dataDir)
	return cmd
}

func secretsDiscardCommand() *cobra.Command {
	var dataDir string
	cmd := &cobra.Command{
		Use:   "discard KEY...",
		Short: "Delete for ever the Secrets that lost encryption keys have encrypted",
		Long: `Delete from the store of a stopped server the Secrets that were encrypted by the named keys,
which are lost. A server that does not start for the lack of its keys names them, and starts
with a new key after this.`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 {
				return errors.New("name the lost keys: a server that does not start without them says which, for example `knarr secrets discard key20260102-030405`")
			}
			return nil
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			return discardSecrets(cmd.Context(), cmd.OutOrStdout(), dataDir, args)
		},
	}
	dataDirFlag(cmd, &dataDir)
	return cmd
}

func discardSecrets(ctx context.Context, w io.Writer, dataDir string, keys []string) error {
	in, err := serverInstance(dataDir)
	if err != nil {
		return err
	}
	out, err := server.DiscardStopped(ctx, in, keys, slog.New(slog.DiscardHandler))
	if out.Values == 0 && err == nil {
		return fmt.Errorf("no Secret is encrypted by %s: name the keys that the start of the server names", strings.Join(keys, ", "))
	}
	if out.Values > 0 {
		fmt.Fprintf(w, "%d Secrets were deleted\n", out.Values)
	}
	return err
}

func rotateSecrets(ctx context.Context, w io.Writer, dataDir string) error {
	in, err := serverInstance(dataDir)
	if err != nil {
		return err
	}
	_, running, err := server.ReadInstance(dataDir)
	if err != nil {
		return err
	}
	ask := func(ctx context.Context, fresh bool) (*transform.Rotation, error) {
		return server.RotateStopped(ctx, in, fresh, slog.New(slog.DiscardHandler))
	}
	if running {
		api, err := remote.FromKubeconfig(filepath.Join(in.DataDir, "kubeconfig"), "knarr-cli")
		if err != nil {
			return err
		}
		ask = func(ctx context.Context, fresh bool) (*transform.Rotation, error) {
			return askRotation(ctx, api, fresh)
		}
	}
	return rotate(ctx, w, ask)
}

// askRotation asks a running server.
func askRotation(ctx context.Context, api *remote.Client, fresh bool) (*transform.Rotation, error) {
	resp, err := api.Do(ctx, http.MethodPost, "/encryption/rotation", url.Values{"new": {fmt.Sprint(fresh)}}, "", "application/json", nil)
	var status *apierrors.StatusError
	if errors.As(err, &status) {
		return nil, errors.New(strings.TrimPrefix(status.ErrStatus.Message, "Internal error occurred: "))
	}
	if err != nil {
		return nil, fmt.Errorf("%w: what was begun is ended by running this again", err)
	}
	defer resp.Body.Close()
	out := &transform.Rotation{}
	const longest = 1 << 20 // bytes of an answer that names a few keys
	if err := json.NewDecoder(io.LimitReader(resp.Body, longest)).Decode(out); err != nil {
		return nil, fmt.Errorf("the API server's answer cannot be read: %w", err)
	}
	return out, nil
}

// rotate asks until it is done; only the first time for a new key.
func rotate(ctx context.Context, w io.Writer, ask func(ctx context.Context, fresh bool) (*transform.Rotation, error)) error {
	total := transform.Rotation{}
	for {
		out, err := ask(ctx, !total.New)
		if err != nil {
			return err
		}
		moved := out.New || out.Rewritten > 0 || len(out.Dropped) > 0
		total.New = true // whoever was interrupted is ended, not begun again
		total.Rewritten += out.Rewritten
		total.Dropped = append(total.Dropped, out.Dropped...)
		if out.Done {
			out.Rewritten, out.Dropped = total.Rewritten, total.Dropped
			printRotation(w, out)
			return nil
		}
		if !moved {
			return fmt.Errorf("some objects are still encrypted by old keys (%s): nothing was dropped; run this again", counted(out.Counts))
		}
		fmt.Fprintf(w, "%d objects written anew so far\n", total.Rewritten)
	}
}

func printRotation(w io.Writer, out *transform.Rotation) {
	fmt.Fprintf(w, "%d objects were written anew; the store holds: %s\n", out.Rewritten, counted(out.Counts))
	if out.Configuration != "" {
		fmt.Fprintf(w, "the keys are those of %s: whichever encrypts nothing any more can be taken out there\n", out.Configuration)
		return
	}
	fmt.Fprintf(w, "the key is %s\n", out.Key)
	if len(out.Dropped) > 0 {
		fmt.Fprintf(w, "dropped: %s; backups from before still need it\n", strings.Join(out.Dropped, ", "))
	}
}

// counted is "3 by key1, 1 by key2".
func counted(counts map[string]int) string {
	var out []string
	for _, name := range slices.Sorted(maps.Keys(counts)) {
		out = append(out, fmt.Sprintf("%d by %s", counts[name], name))
	}
	if len(out) == 0 {
		return "nothing to encrypt"
	}
	return strings.Join(out, ", ")
}
