package cli

import (
	"context"
	"crypto/rand"
	"encoding/base32"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"knarr.dev/knarr/internal/auth/bootstrap"
	"knarr.dev/knarr/internal/client/remote"
	"knarr.dev/knarr/internal/kinds"
	"knarr.dev/knarr/internal/security/pki"
)

// Bootstrap tokens are Secrets of this type and name in kube-system, so that
// kubectl sees them too.
const (
	bootstrapTokenType   = "bootstrap.kubernetes.io/token"
	bootstrapTokenPrefix = "bootstrap-token-"
)

func tokenCommand() *cobra.Command {
	cmd := &cobra.Command{Use: "token", Short: "Make, list and delete the tokens by which agents join", Args: subcommand,
		RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() }}
	cmd.AddCommand(tokenCreateCommand(), tokenListCommand(), tokenDeleteCommand())
	return cmd
}

func tokenCreateCommand() *cobra.Command {
	var dataDir, description string
	var ttl time.Duration
	cmd := &cobra.Command{
		Use:   "create",
		Short: "Print a new join token",
		Args:  noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if ttl < 0 {
				return fmt.Errorf("--ttl %s is negative; 0 means for ever", ttl)
			}
			return createToken(cmd.Context(), dataDir, description, ttl)
		},
	}
	dataDirFlag(cmd, &dataDir)
	cmd.Flags().DurationVar(&ttl, "ttl", 24*time.Hour, "how long it can be used to join; 0: for ever")
	cmd.Flags().StringVar(&description, "description", "", "what it is for")
	return cmd
}

func createToken(ctx context.Context, dataDir, description string, ttl time.Duration) error {
	in, err := serverInstance(dataDir)
	if err != nil {
		return err
	}
	api, err := remote.FromKubeconfig(filepath.Join(in.DataDir, "kubeconfig"), "knarr-cli")
	if err != nil {
		return err
	}
	ca, err := os.ReadFile(filepath.Join(in.DataDir, "server", "pki", "ca.crt"))
	if err != nil {
		return err
	}
	id, secret := randomText(6), randomText(16)
	token, err := pki.FormatJoinToken(ca, id, secret)
	if err != nil {
		return err
	}
	data := map[string]string{
		"token-id": id, "token-secret": secret, "description": description,
		"usage-bootstrap-authentication": "true",
		"auth-extra-groups":              bootstrap.JoinGroup,
	}
	if ttl > 0 {
		data["expiration"] = time.Now().Add(ttl).UTC().Format(time.RFC3339)
	}
	_, err = api.Create(ctx, kinds.Ref{Kind: kinds.Secret, Namespace: metav1.NamespaceSystem}, &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Name: bootstrapTokenPrefix + id, Namespace: metav1.NamespaceSystem},
		Type:       bootstrapTokenType, StringData: data,
	})
	if err != nil {
		return fmt.Errorf("cannot store the token: %w", err)
	}
	fmt.Println(token)
	return nil
}

// randomText of n characters from the 32 that bootstrap tokens and base32
// share: five bits each.
func randomText(n int) string {
	b := make([]byte, n)
	_, _ = rand.Read(b) // never fails, crypto/rand
	return strings.ToLower(base32.StdEncoding.EncodeToString(b))[:n]
}

func tokenListCommand() *cobra.Command {
	var dataDir string
	cmd := &cobra.Command{
		Use:   "list",
		Short: "List the join tokens, without their secrets",
		Args:  noArgs,
		RunE: func(cmd *cobra.Command, _ []string) error {
			in, err := serverInstance(dataDir)
			if err != nil {
				return err
			}
			api, err := remote.FromKubeconfig(filepath.Join(in.DataDir, "kubeconfig"), "knarr-cli")
			if err != nil {
				return err
			}
			obj, err := api.List(cmd.Context(), kinds.Secret, metav1.NamespaceSystem, metav1.ListOptions{FieldSelector: "type=" + bootstrapTokenType})
			if err != nil {
				return err
			}
			list, ok := obj.(*corev1.SecretList)
			if !ok {
				return fmt.Errorf("the API server answered with a %T", obj)
			}
			w := tabwriter.NewWriter(os.Stdout, 0, 4, 2, ' ', 0)
			fmt.Fprintln(w, "ID\tEXPIRES\tDESCRIPTION")
			for _, s := range list.Items {
				expires := string(s.Data["expiration"])
				if expires == "" {
					expires = "never"
				}
				fmt.Fprintf(w, "%s\t%s\t%s\n", s.Data["token-id"], expires, s.Data["description"])
			}
			return w.Flush()
		},
	}
	dataDirFlag(cmd, &dataDir)
	return cmd
}

func tokenDeleteCommand() *cobra.Command {
	var dataDir string
	cmd := &cobra.Command{
		Use:   "delete ID",
		Short: "Delete a join token; nodes that have joined stay",
		Long:  "Delete a join token, given by its ID or as a whole; nodes that have joined stay.",
		RunE: func(cmd *cobra.Command, args []string) error {
			if len(args) != 1 {
				return errors.New("give the ID of one token; `knarr token list` shows them")
			}
			id := args[0]
			if token, err := pki.ParseJoinToken(id); err == nil {
				id = token.ID
			}
			in, err := serverInstance(dataDir)
			if err != nil {
				return err
			}
			api, err := remote.FromKubeconfig(filepath.Join(in.DataDir, "kubeconfig"), "knarr-cli")
			if err != nil {
				return err
			}
			ref := kinds.Ref{Kind: kinds.Secret, Namespace: metav1.NamespaceSystem, Name: bootstrapTokenPrefix + id}
			_, err = api.Delete(cmd.Context(), ref, metav1.DeleteOptions{})
			if apierrors.IsNotFound(err) {
				return fmt.Errorf("there is no token %q; `knarr token list` shows them", id)
			}
			return err
		},
	}
	dataDirFlag(cmd, &dataDir)
	return cmd
}
