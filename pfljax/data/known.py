"""The table of data sets that are known by name."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from pfljax.data import synthetic
from pfljax.data.dataset import Dataset
from pfljax.data.readers import images, sensors, tables, texts
from pfljax.data.readers.common import Read


class Known(NamedTuple):
    """What is known of a data set before it is found."""

    about: str
    task: str
    shape: str  # of one example, as it is stored
    clients: str  # natural ones; empty: it is dealt by a partitioner
    copy: str  # what a copy of it looks like
    url: str
    licence: str
    cite: str
    read: Read | None = None  # of the files of a copy; idx, npz and TFDS need none
    tfds: bool = False  # TFDS prepares it, under the same name
    make: Callable[[], Dataset] | None = None  # of what needs no files


_NPZ = "an .npz with x_train, y_train, x_test, y_test"
_IDX = f"the four idx files of MNIST (.gz or not), a torchvision root, or {_NPZ}"
_PART = f"the four idx files of this part, emnist-PART-train-images-idx3-ubyte and so on, or {_NPZ}"
_LEAF = "a folder with train/*.json and test/*.json, as LEAF's preprocess.sh leaves in data/"
_BATCHES = "the batches of the page, in Python's pickles or binary, alone or in their folder"
_UNSTATED = "not stated: cite"
_LEAF_PAPER = "Caldas et al., LEAF: a benchmark for federated settings, 2018"
_MNIST = "LeCun et al., Gradient-based learning applied to document recognition, Proc. IEEE 1998"
_EMNIST = "Cohen et al., EMNIST: extending MNIST to handwritten letters, IJCNN 2017"
_LEAF_URL = "https://github.com/TalwalkarLab/leaf"
_CIFAR = (
    "https://www.cs.toronto.edu/~kriz/cifar.html",
    _UNSTATED,
    "Krizhevsky, Learning multiple layers of features from tiny images, 2009",
)
_SCHOOL = "Evgeniou et al., Learning multiple tasks with kernel methods, JMLR 2005"

KNOWN: dict[str, Known] = {
    "digits": Known(
        "grey digits of 8 x 8, 1,797 of them", "10 classes", "[8, 8, 1] bytes", "",
        "in the package scikit-learn: pip install 'pfljax[demo]'", "https://scikit-learn.org", "CC BY 4.0",
        "Alpaydin and Kaynak, Optical recognition of handwritten digits, UCI 1998", make=images.digits,
    ),
    "synthetic": Known(
        "clients with models that differ by alpha, and inputs that differ by beta", "10 classes", "[60] numbers",
        "clients", "made, not found", _LEAF_URL, "none needed",
        "Li et al., Federated optimization in heterogeneous networks, MLSys 2020", make=synthetic.synthetic_v2,
    ),
    "mnist": Known(
        "digits; by writer where the copy names them", "10 classes", "[28, 28, 1] bytes", "writers, of an .npz",
        f"{_IDX}; with writer_train and writer_test it has natural clients", "https://yann.lecun.org/exdb/mnist",
        "CC BY-SA 3.0", _MNIST, tfds=True,
    ),
    "fashion_mnist": Known(
        "photographs of clothes", "10 classes", "[28, 28, 1] bytes", "",
        f"{_IDX}; on Debian: apt-get install dataset-fashion-mnist", "https://github.com/zalandoresearch/fashion-mnist",
        "MIT", "Xiao et al., Fashion-MNIST, 2017", tfds=True,
    ),
    "kmnist": Known(
        "Japanese characters", "10 classes", "[28, 28, 1] bytes", "", _IDX, "https://github.com/rois-codh/kmnist",
        "CC BY-SA 4.0", "Clanuwat et al., Deep learning for classical Japanese literature, 2018", tfds=True,
    ),
    "emnist/byclass": Known(
        "digits and letters", "62 classes", "[28, 28, 1] bytes", "", _PART,
        "https://www.nist.gov/itl/products-and-services/emnist-dataset", "public domain", _EMNIST, tfds=True,
    ),
    "emnist/balanced": Known(
        "digits and letters, as many of each", "47 classes", "[28, 28, 1] bytes", "", _PART,
        "https://www.nist.gov/itl/products-and-services/emnist-dataset", "public domain", _EMNIST, tfds=True,
    ),
    "cifar10": Known(
        "small photographs", "10 classes", "[32, 32, 3] bytes", "", _BATCHES, *_CIFAR, read=images.cifar10, tfds=True
    ),
    "cifar100": Known(
        "small photographs", "100 classes", "[32, 32, 3] bytes", "", _BATCHES, *_CIFAR, read=images.cifar100, tfds=True
    ),
    "svhn_cropped": Known(
        "house numbers", "10 classes", "[32, 32, 3] bytes", "", "train_32x32.mat and test_32x32.mat",
        "http://ufldl.stanford.edu/housenumbers", "non-commercial",
        "Netzer et al., Reading digits in natural images with unsupervised feature learning, 2011",
        read=images.svhn, tfds=True,
    ),
    "femnist": Known(
        "digits and letters by who wrote them", "62 classes", "[28, 28, 1] bytes", "writers",
        f"{_LEAF}; or TFF's fed_emnist.sqlite, unpacked", _LEAF_URL, "BSD 2-clause (LEAF)", _LEAF_PAPER,
        read=texts.femnist,
    ),
    "shakespeare": Known(
        "lines of plays by who speaks them", "next of 80 characters", "[80] characters by number", "speaking roles",
        f"{_LEAF}; or TFF's shakespeare.sqlite, unpacked", _LEAF_URL, "public domain", _LEAF_PAPER,
        read=texts.shakespeare,
    ),
    "celeba": Known(
        "faces, smiling or not, by who they are", "2 classes", "[84, 84, 3] bytes", "celebrities",
        f"{_LEAF}, with the images in raw/img_align_celeba", _LEAF_URL, "non-commercial research",
        f"Liu et al., Deep learning face attributes in the wild, ICCV 2015; {_LEAF_PAPER}", read=texts.celeba,
    ),
    "sent140": Known(
        "tweets, glad or sad, by who wrote them", "2 classes", "[25] words by number, 10,000 known", "writers",
        _LEAF, _LEAF_URL, _UNSTATED, f"Go et al., Twitter sentiment classification, 2009; {_LEAF_PAPER}",
        read=texts.sent140,
    ),
    "reddit": Known(
        "comments by who wrote them", "next of 10,002 words", "[10] words by number, 10,000 known", "writers",
        _LEAF, _LEAF_URL, _UNSTATED, _LEAF_PAPER, read=texts.reddit,
    ),
    "leaf_synthetic": Known(
        "LEAF's synthetic clients", "classes", "[60] numbers", "clients", _LEAF, _LEAF_URL, "BSD 2-clause (LEAF)",
        _LEAF_PAPER, read=texts.leaf_synthetic,
    ),
    "heart_disease": Known(
        "patients with a disease of the heart or without, FLamby's features and split", "2 classes", "[13] numbers",
        "4 hospitals", "the files processed.cleveland.data, .hungarian., .switzerland., .va.",
        "https://archive.ics.uci.edu/dataset/45/heart+disease", "CC BY 4.0",
        "Janosi et al., Heart disease, UCI 1989; Ogier du Terrail et al., FLamby, NeurIPS 2022",
        read=tables.heart_disease,
    ),
    "har": Known(
        "what a phone feels while its owner walks, sits or lies", "6 classes", "[128, 9] numbers", "30 persons",
        "the folder UCI HAR Dataset, with Inertial Signals",
        "https://archive.ics.uci.edu/dataset/240/human+activity+recognition+using+smartphones", "CC BY 4.0",
        "Anguita et al., A public domain dataset for human activity recognition using smartphones, ESANN 2013",
        read=sensors.har,
    ),
    "wisdm": Known(
        "what a phone feels, in features of ten seconds", "6 classes", "[43] numbers", "36 persons",
        "WISDM_ar_v1.1_transformed.arff", "https://www.cis.fordham.edu/wisdm/dataset.php", _UNSTATED,
        "Kwapisz et al., Activity recognition using cell phone accelerometers, 2010", read=sensors.wisdm,
    ),
    "pamap2": Known(
        "what sensors on hand, chest and ankle feel in sports and at home", "12 classes", "[256, 27] numbers",
        "9 persons",
        "the folder PAMAP2_Dataset, with Protocol/subject101.dat and so on",
        "https://archive.ics.uci.edu/dataset/231/pamap2+physical+activity+monitoring", "CC BY 4.0",
        "Reiss and Stricker, Introducing a new benchmarked dataset for activity monitoring, ISWC 2012",
        read=sensors.pamap2,
    ),
    "movielens": Known(
        "ratings of films from 1 to 5", "regression", "[] number of the film", "viewers",
        "u.data of ml-100k, or ratings.dat of ml-1m", "https://grouplens.org/datasets/movielens", "no redistribution",
        "Harper and Konstan, The MovieLens datasets, TiiS 2015", read=tables.movielens,
    ),
    "school": Known(
        "exam scores of pupils", "regression", "[28] numbers", "139 schools",
        "school.mat of MALSAR, with cells X and Y", "https://github.com/jiayuzhou/MALSAR", _UNSTATED, _SCHOOL,
        read=tables.school,
    ),
    "landmine": Known(
        "mines or clutter in radar images of fields", "2 classes", "[9] numbers", "29 fields",
        "LandmineData.mat, with cells feature and label", "http://www.ee.duke.edu/~lcarin/LandmineData.zip", _UNSTATED,
        "Xue et al., Multi-task learning for classification with Dirichlet process priors, JMLR 2007",
        read=tables.landmine,
    ),
    "usps": Known(
        "digits from envelopes", "10 classes", "[16, 16, 1] bytes", "", "usps.bz2 and usps.t.bz2 of LIBSVM's page",
        "https://www.csie.ntu.edu.tw/~cjlin/libsvmtools/datasets/multiclass.html#usps", _UNSTATED,
        "Hull, A database for handwritten text recognition research, TPAMI 1994", read=images.usps,
    ),
    "mnist_m": Known(
        "digits on photographs", "10 classes", "[28, 28, 3] bytes", "",
        "the folder mnist_m: mnist_m_train, mnist_m_test and a list of labels for each",
        "http://yaroslav.ganin.net", _UNSTATED,
        "Ganin et al., Domain-adversarial training of neural networks, JMLR 2016", read=images.mnist_m,
    ),
    "digit_domains": Known(
        "digits in other clothes: mnist, mnist_m, svhn_cropped, usps", "10 classes", "[28, 28, 3] bytes",
        "2 to 4 domains",
        "a folder with copies of two or more of them, each a folder or an .npz of that name", "as they", "as they",
        "as they", read=images.digit_domains,
    ),
    "omniglot": Known(
        "characters of many alphabets, each drawn by twenty people", "characters", "[28, 28, 1] bytes",
        "alphabet and drawer", "the folders images_background and images_evaluation, or one of them",
        "https://github.com/brendenlake/omniglot", "MIT",
        "Lake et al., Human-level concept learning through probabilistic program induction, Science 2015",
        read=images.omniglot,
    ),
    "chars74k": Known(
        "digits and letters drawn on a tablet, each once by each writer", "62 classes", "[28, 28, 1] bytes",
        "55 writers",
        "EnglishHnd unpacked: English/Hnd/Img/Sample001 and so on",
        "http://www.ee.surrey.ac.uk/CVSSP/demos/chars74k", "research",
        "de Campos et al., Character recognition in natural images, VISAPP 2009", read=images.chars74k,
    ),
    "pacs": Known(
        "photographs, paintings, cartoons and sketches", "7 classes", "[64, 64, 3] bytes, or another size", "4 domains",
        "a folder with art_painting, cartoon, photo and sketch, each with a folder for each class",
        "https://domaingeneralization.github.io", "research",
        "Li et al., Deeper, broader and artier domain generalization, ICCV 2017", read=images.pacs,
    ),
    "iwildcam": Known(
        "animals before cameras", "species", "[64, 64, 3] bytes, or another size", "cameras",
        "the folder iwildcam_v2.0 of WILDS: metadata.csv and train/; federate it with test='given'",
        "https://wilds.stanford.edu", "CDLA-Permissive-1.0",
        "Beery et al., The iWildCam 2020 competition dataset, 2020; Koh et al., WILDS, ICML 2021",
        read=images.iwildcam,
    ),
    "flickr_aes": Known(
        "how much people like photographs, from 1 to 5", "regression", "[64, 64, 3] bytes, or another size", "workers",
        "FLICKR-AES_image_labeled_by_each_worker.csv and the images in 40K/",
        "https://github.com/alanspike/personalizedImageAesthetics", "research",
        "Ren et al., Personalized image aesthetics, ICCV 2017", read=images.flickr_aes,
    ),
    "spoken_digits": Known(
        "spoken digits", "10 classes", "[124, 65, 1] log power", "speakers",
        "the folder recordings, with files digit_speaker_number.wav",
        "https://github.com/Jakobovski/free-spoken-digit-dataset", "CC BY-SA 4.0",
        "Jackson, Free spoken digit dataset, 2018", read=sensors.spoken_digits,
    ),
}  # fmt: skip
"""Name -> what is known of it."""
