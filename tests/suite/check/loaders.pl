# Hands archives to the loader of sbuild that PERL5LIB finds, as the user that runs this:
#     loaders.pl WORK ARCHIVE...
# For each it prints 0 (refused) or 1 (loaded), and packs what was loaded into ARCHIVE.tree.
use strict;
use warnings;
use Sbuild::Conf;
use Sbuild::ChrootUnshare;
no warnings qw(once redefine);

# What follows the unpacking needs a whole chroot.
*Sbuild::ChrootUnshare::_setup_options = sub { return 1; };
*Sbuild::ChrootUnshare::run_command = sub { $? = 0; };

open(my $results, '>&', \*STDOUT) or die;
open(STDOUT, '>&', \*STDERR) or die;
my $work = shift @ARGV;
my $conf = Sbuild::Conf::new();
$conf->set('UNSHARE_TMPDIR_TEMPLATE', "$work/tree.XXXXXXXX");
my @script;
for my $archive (@ARGV) {
    print STDERR "== $archive\n";
    my $session = Sbuild::ChrootUnshare->new($conf, $archive);
    my $is_loaded = $session->begin_session() ? 1 : 0;
    my $tree = $session->get('Session ID');
    push @script, "tar -C $tree --numeric-owner --format=posix --hard-dereference -cf $archive.tree ." if $is_loaded;
    print $results "$is_loaded\n";
}
# The archives are written by root of the namespace into a directory of everyone.
system('mmdebstrap', '--unshare-helper', 'sh', '-ec', join("\n", @script)) == 0 or die;
